"""What can be set: names, types, defaults, descriptions, and which combinations are unsafe. No I/O."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mcphub.policy.model import HostFacts

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Listen(_Strict):
    """Where the hub listens and whom it answers (rule R14)."""

    host: str = Field(default="127.0.0.1", description="Address to bind; loopback by default.")
    port: int = Field(default=8765, ge=0, le=65535, description="TCP port; 0 takes a free one.")
    public_url: str = Field(
        default="", description="URL that clients use, when a proxy is in front."
    )
    allowed_hosts: tuple[str, ...] = Field(
        default=(),
        description="Host header values that are answered, beside loopback and public_url.",
    )
    allowed_origins: tuple[str, ...] = Field(
        default=(),
        description="Origin header values that are answered, beside loopback and public_url.",
    )
    sse: bool = Field(
        default=False, description="Serve the old HTTP+SSE transport at /sse, for old clients."
    )
    fast_lane: bool = Field(
        default=True,
        description="Answer warm calls beside the ASGI application; off: all through it.",
    )

    @field_validator("host")
    @classmethod
    def _bare(cls, value: str) -> str:
        return value.removeprefix("[").removesuffix("]")

    @field_validator("public_url")
    @classmethod
    def _address(cls, value: str) -> str:
        parts = urlsplit(value)
        usable = parts.scheme in {"http", "https"} and parts.hostname and "@" not in parts.netloc
        if value and (not usable or parts.query or parts.fragment):
            raise ValueError("it is an address such as https://mcp.example.com")
        return value


class Limits(_Strict):
    """Bounds of everything that a client can make grow."""

    body_bytes: int = Field(default=16 * 1024 * 1024, ge=1024, description="Largest request body.")
    line_bytes: int = Field(
        default=32 * 1024 * 1024, ge=1024, description="Largest message of a server."
    )
    call_timeout_s: float = Field(
        default=60, gt=0, description="Time limit of a call without an own one."
    )
    call_timeout_max_s: float = Field(default=600, gt=0, description="Hard maximum of any call.")
    sessions_per_user: int = Field(default=32, ge=1, description="Legacy sessions a user may hold.")
    sessions: int = Field(default=20_000, ge=1, description="Legacy sessions of all users.")
    session_idle_s: float = Field(
        default=3600, gt=0, description="Idle time after which a session ends."
    )
    calls_per_user: int = Field(default=128, ge=1, description="Calls of one user in flight.")
    connections: int = Field(
        default=0,
        ge=0,
        description="Connections of all clients; 0: half of the files that the hub may open, "
        "at most 16384.",
    )
    connections_per_user: int = Field(
        default=512,
        ge=1,
        description="Connections of one user; idle ones end for new ones, then 429.",
    )
    page_items: int = Field(
        default=1000, ge=1, description="Items on one page of a list; many clients read one page."
    )
    list_budget_s: float = Field(
        default=10, gt=0, description="Time that one server may take of a list of several servers."
    )
    instances_per_user: int = Field(default=32, ge=1, description="Running instances of one user.")
    instances_per_group: Mapping[str, int] = Field(
        default={},
        description="Running instances of all members of a group together, by its name.",
    )
    instances: int = Field(default=2000, ge=1, description="Running instances in all.")
    starts_at_once: int = Field(
        default=0,
        ge=0,
        description="Instances being started at the same time; 0: two for each core, at least 4.",
    )
    starts_waiting: int = Field(
        default=500, ge=0, description="Starts that wait for their turn; more are refused."
    )
    start_timeout_s: float = Field(
        default=60, gt=0, description="Time for a server to answer initialize."
    )
    stop_s: float = Field(
        default=45,
        ge=1,
        le=3600,
        description="Time for the hub to stop, all together; then it ends with exit status 1.",
    )


class Sandbox(_Strict):
    """How instances are confined."""

    minimum_level: int = Field(
        default=3, ge=0, le=5, description="Critical and unclassified servers are refused below it."
    )
    minimum_level_high: int = Field(
        default=3, ge=0, le=5, description="Likewise for servers of high risk."
    )
    minimum_level_medium: int = Field(
        default=1, ge=0, le=5, description="Likewise for servers of medium risk."
    )
    minimum_level_low: int = Field(
        default=1, ge=0, le=5, description="Likewise for servers of low risk."
    )
    allow_unsandboxed: bool = Field(
        default=False, description="Run without a sandbox, administrators only."
    )
    uid_base: int = Field(
        default=200_000, ge=10_000, description="Kernel uid of a user = base + number."
    )

    def host_facts(self, level: int, *, allow_unsandboxed: bool | None = None) -> HostFacts:
        """Return what policy needs to know of a machine with this sandbox level."""
        return HostFacts(
            sandbox_level=level,
            minimum_level=self.minimum_level,
            allow_unsandboxed=(
                self.allow_unsandboxed if allow_unsandboxed is None else allow_unsandboxed
            ),
            minimum_high=self.minimum_level_high,
            minimum_medium=self.minimum_level_medium,
            minimum_low=self.minimum_level_low,
        )


class Keys(_Strict):
    """Where the keys that seal credentials come from."""

    source: Literal["file", "environment", "command"] = Field(
        default="file", description="Key provider."
    )
    file: str = Field(
        default="", description="Key file; default keys/vault.keys in the hub's directory."
    )
    variable: str = Field(
        default="MCPHUB_VAULT_KEYS", description="Environment variable with the keys."
    )
    command: tuple[str, ...] = Field(
        default=(), description="Program and arguments that print the keys."
    )


class Context(_Strict):
    """How servers that know their user are told who that is (docs/reference/user-context.md)."""

    issuer: str = Field(
        default="",
        description="Who the hub says it is; default is listen.public_url, else a URN.",
    )
    lifetime_s: int = Field(default=60, ge=5, le=300, description="Validity of one assertion.")
    key_file: str = Field(
        default="", description="Signing keys; default keys/context.keys in the hub's directory."
    )


class OAuth(_Strict):
    """The hub as OAuth client of servers that require it (docs/how-to/connect-oauth-servers.md)."""

    client_metadata_url: str = Field(
        default="",
        description="Public https URL of the hub's client id metadata document, where the hub itself "
        "cannot be reached from the internet; default is the hub's own below listen.public_url.",
    )


class Tracing(_Strict):
    """Spans of calls for OpenTelemetry (docs/how-to/trace-calls.md)."""

    endpoint: str = Field(
        default="",
        description="OTLP/HTTP URL of the collector, e.g. http://127.0.0.1:4318; empty is off.",
    )
    sample: float = Field(
        default=0,
        ge=0,
        le=1,
        description="Share of calls that get a span although their caller asks for none.",
    )
    headers: Mapping[str, str] = Field(
        default={},
        repr=False,
        description="Headers for the collector; ${NAME} is a variable of the hub's environment.",
    )

    @property
    def url(self) -> str:
        """The endpoint with the path of traces, where it names none."""
        parts = urlsplit(self.endpoint)
        return (
            self.endpoint if parts.path.strip("/") else f"{parts.scheme}://{parts.netloc}/v1/traces"
        )

    @model_validator(mode="after")
    def _safe(self) -> "Tracing":
        if not self.endpoint:
            return self
        parts = urlsplit(self.endpoint)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query:
            raise ValueError("endpoint is an http or https URL without a query")
        if "@" in parts.netloc:
            raise ValueError("endpoint holds no user and password: put them into headers")
        if self.headers and parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise ValueError("headers travel over https or loopback only")
        return self


class HubSettings(_Strict):
    """All settings of one hub.

    Attributes:
        dir: The hub's directory; everything that it writes lies below.
        operator_env: The environment that `${NAME}` templates are filled from.
        origins: Setting path -> where its value came from, for `mcphub config show`.
    """

    dir: Path
    database: str = Field(
        default="", description="postgresql://… URL; default is SQLite in the directory."
    )
    retention_days: int = Field(default=30, ge=1, description="Days that request records are kept.")
    listen: Listen = Listen()
    limits: Limits = Limits()
    sandbox: Sandbox = Sandbox()
    keys: Keys = Keys()
    context: Context = Context()
    oauth: OAuth = OAuth()
    tracing: Tracing = Tracing()
    operator_env: Mapping[str, str] = Field(default_factory=dict, exclude=True, repr=False)
    origins: Mapping[str, str] = Field(default_factory=dict, exclude=True, repr=False)

    @field_validator("dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @model_validator(mode="after")
    def _safe(self) -> "HubSettings":
        if self.listen.host not in _LOOPBACK and not (
            self.listen.public_url or self.listen.allowed_hosts
        ):
            raise ValueError(
                "listen.host is not loopback: set listen.public_url (https://…) or listen.allowed_hosts, "
                "so that the Host check knows which names are yours"
            )
        document = self.oauth.client_metadata_url
        if document and not (document.startswith("https://") and document[8:].partition("/")[2]):
            raise ValueError("oauth.client_metadata_url is an https URL with a path")
        if self.keys.source == "command" and not self.keys.command:
            raise ValueError(
                "keys.source is 'command': set keys.command to the program and its arguments"
            )
        return self

    @property
    def client_document(self) -> str:
        """URL of the hub's client id metadata document; "" where nobody could fetch one."""
        public = self.listen.public_url.rstrip("/")
        own = f"{public}/oauth/client-metadata.json" if public.startswith("https://") else ""
        return self.oauth.client_metadata_url or own

    @property
    def servers_file(self) -> Path:
        """`mcp_settings.json`."""
        return self.dir / "mcp_settings.json"

    @property
    def config_file(self) -> Path:
        """`mcphub.toml`."""
        return self.dir / "mcphub.toml"

    @property
    def database_url(self) -> str:
        """URL of the store."""
        return self.database or f"sqlite:///{self.dir / 'hub.db'}"

    @property
    def key_file(self) -> Path:
        """Key file of the vault; apart from the database so that a copy of one is not both."""
        return self._path(self.keys.file or "keys/vault.keys")

    def _path(self, given: str) -> Path:
        """Return a path of the settings: below the hub's directory, whatever directory one is in."""
        return self.dir / Path(given).expanduser()

    @property
    def context_key_file(self) -> Path:
        """Keys that sign user contexts."""
        return self._path(self.context.key_file or "keys/context.keys")

    @property
    def subject_key_file(self) -> Path:
        """The secret that pairwise subjects are derived from; never rotated."""
        return self.context_key_file.with_name("subjects.keys")

    @property
    def homes(self) -> Path:
        """Homes of instances: `homes/<user id>/<server>`."""
        return self.dir / "homes"

    @property
    def packages(self) -> Path:
        """The pinned package store."""
        return self.dir / "packages"

    @property
    def starts(self) -> Path:
        """What was found out about how packages may be started."""
        return self.dir / "starts"

    @property
    def run(self) -> Path:
        """Sockets and pid file of the running hub."""
        return self.dir / "run"

    @property
    def control_socket(self) -> Path:
        """Unix socket of the control API, mode 0600."""
        return self.run / "hub.sock"


def names() -> list[str]:
    """Return the names of all settings, as `listen.port`."""
    found: list[str] = []
    for name, field in HubSettings.model_fields.items():
        if field.exclude or name == "dir":
            continue
        kind = field.annotation
        inner = kind.model_fields if isinstance(kind, type) and issubclass(kind, _Strict) else {}
        found += [f"{name}.{below}" for below in inner] or [name]
    return found


def variable_of(name: str) -> str:
    """Return the environment variable of a setting: `listen.port` is MCPHUB_LISTEN__PORT."""
    return "MCPHUB_" + name.upper().replace(".", "__")
