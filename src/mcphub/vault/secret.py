"""`Secret`, under the name by which the packages above the vault know it.

The class is in `mcphub.secret`, below every package, because a new API key is one too.
"""

from mcphub.secret import Secret

__all__ = ["Secret"]
