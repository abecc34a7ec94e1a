"""Settings of the hub: what can be set (`model`) and where it comes from (`reading`).

Unknown keys and unsafe combinations are refused with a sentence that says what to do. Which servers
there are is another file: `mcp_settings.json` (`catalog.settings_file`).
"""

from mcphub.settings.model import HubSettings, Limits, Tracing, names, variable_of
from mcphub.settings.reading import environment, load

__all__ = ["HubSettings", "Limits", "Tracing", "environment", "load", "names", "variable_of"]
