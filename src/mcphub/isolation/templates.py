"""URI templates of resources (RFC 6570), filled as far as servers use them. Pure."""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

_EXPRESSION: Final = re.compile(r"\{([+#./;?&]?)([\w.,*:-]{1,200})\}")
_OPTIONAL: Final = frozenset("?&;#")


def variables(template: str) -> list[str]:
    """Return the names that a template needs: not those of a query or a fragment."""
    found = [
        name.partition(":")[0].rstrip("*")
        for operator, names in _EXPRESSION.findall(template)
        if operator not in _OPTIONAL or not operator
        for name in names.split(",")
    ]
    return list(dict.fromkeys(name for name in found if name))


def filled(template: str, values: Mapping[str, str]) -> str:
    """Return the URI of a template; what `values` lacks is left out."""

    def expanded(expression: re.Match[str]) -> str:
        operator = expression[1]
        if operator in _OPTIONAL and operator:
            return ""
        names = [name.partition(":")[0].rstrip("*") for name in expression[2].split(",")]
        safe = "/:" if operator == "+" else ""
        told = [quote(values[name], safe=safe) for name in names if name in values]
        between = operator if operator in {"/", "."} else ","
        return (between if operator in {"/", "."} and told else "") + between.join(told)

    return _EXPRESSION.sub(expanded, template)
