"""An MCP server over stdio, of one era only, that offers what the server scenarios of the conformance suite ask for.

Made with the official SDK; knows nothing of the hub. Names and contents are those that the suite
describes. The tools are the same in both eras; what differs is how they ask their client: `Legacy`
sends a request in the middle of the call, `Modern` answers `input_required` and runs the tool again
when the answers are there. Argument: `legacy` or `modern`.
"""

import base64
import hashlib
import hmac
import json
import secrets
import sys
import warnings

import anyio
from mcp import MCPError
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
from mcp.shared.subscriptions import PromptsListChanged, ToolsListChanged
from mcp.types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    CompleteResult,
    Completion,
    CreateMessageRequest,
    ElicitRequest,
    EmbeddedResource,
    EmptyResult,
    GetPromptResult,
    ImageContent,
    InputRequiredResult,
    ListPromptsResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    ListRootsRequest,
    ListToolsResult,
    Prompt,
    PromptArgument,
    PromptMessage,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    SamplingMessage,
    TextContent,
    TextResourceContents,
    Tool,
)

# Logging, roots and sampling are deprecated in the newest revision, not in the one spoken here.
warnings.simplefilter("ignore")

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
WAV = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQIAAAAAAA=="
RESOURCE_NOT_FOUND = {"legacy": -32002, "modern": -32602}
STEP_S = 0.05


def text(value):
    return TextContent(type="text", text=value)


def image():
    return ImageContent(type="image", data=PNG, mime_type="image/png")


def embedded(uri, content, mime_type="text/plain"):
    resource = TextResourceContents(uri=uri, mime_type=mime_type, text=content)
    return EmbeddedResource(type="resource", resource=resource)


def form(**properties):
    return {"type": "object", "properties": properties, "required": list(properties)}


STRING = {"type": "string"}
NAME = form(name=STRING)
OPTIONS = ["option1", "option2", "option3"]
DEFAULTS = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {
            "type": "string",
            "enum": ["active", "inactive", "pending"],
            "default": "active",
        },
        "verified": {"type": "boolean", "default": True},
    },
    "required": [],
}
ENUMS = {
    "type": "object",
    "properties": {
        "untitledSingle": {"type": "string", "enum": OPTIONS},
        "titledSingle": {
            "type": "string",
            "oneOf": [
                {"const": "value1", "title": "First Option"},
                {"const": "value2", "title": "Second Option"},
            ],
        },
        "legacyEnum": {
            "type": "string",
            "enum": ["opt1", "opt2"],
            "enumNames": ["Option One", "Option Two"],
        },
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": OPTIONS}},
        "titledMulti": {
            "type": "array",
            "items": {
                "anyOf": [
                    {"const": "value1", "title": "First Choice"},
                    {"const": "value2", "title": "Second Choice"},
                ]
            },
        },
    },
    "required": [],
}


class NeedsInput(Exception):
    """A tool of a modern server cannot go on without answers."""

    def __init__(self, requests):
        super().__init__("input required")
        self.requests = requests


class Legacy:
    """One call as a tool sees it: asks its client while the call is open."""

    def __init__(self, ctx):
        self.ctx = ctx
        self.session = ctx.session

    async def elicit(self, key, message, schema):
        """Ask the user; returns action and content."""
        answer = await self.session.elicit(message, schema, related_request_id=self.ctx.request_id)
        return answer.action, answer.content or {}

    async def sample(self, key, prompt, max_tokens=100):
        """Ask the client's model; returns its text."""
        message = SamplingMessage(role="user", content=text(prompt))
        answer = await self.session.create_message(
            [message], max_tokens=max_tokens, related_request_id=self.ctx.request_id
        )
        return getattr(answer.content, "text", "")

    async def roots(self, key):
        """Ask for the client's directories; returns their URIs."""
        return [str(root.uri) for root in (await self.session.list_roots()).roots]

    async def can_elicit(self):
        """A legacy server learns what a single call may ask only by asking."""
        try:
            await self.elicit("", "What is your name?", NAME)
        except MCPError:
            return False
        return True

    async def tools_changed(self):
        await self.session.send_tool_list_changed()

    async def prompts_changed(self):
        await self.session.send_prompt_list_changed()

    async def all_three(self):
        """Ask everything at once."""
        async with anyio.create_task_group() as group:
            group.start_soon(self.elicit, "", "What is your name?", NAME)
            group.start_soon(self.sample, "", "Generate a greeting", 50)
            group.start_soon(self.roots, "")


class Modern:
    """The same for a modern call: what was answered so far is in its state, signed."""

    def __init__(self, ctx):
        self.ctx = ctx
        self.session = ctx.session
        self.answers = opened(ctx.params.get("requestState"))
        given = ctx.params.get("inputResponses") or {}
        self.answers |= {key: value for key, value in given.items() if isinstance(value, dict)}

    def need(self, requests):
        missing = {key: value for key, value in requests.items() if key not in self.answers}
        if missing:
            raise NeedsInput(missing)
        return [self.answers[key] for key in requests]

    @staticmethod
    def form(message, schema):
        params = {"message": message, "requestedSchema": schema}
        return {"method": "elicitation/create", "params": params}

    @staticmethod
    def prompt(prompt, max_tokens):
        message = {"role": "user", "content": {"type": "text", "text": prompt}}
        params = {"messages": [message], "maxTokens": max_tokens}
        return {"method": "sampling/createMessage", "params": params}

    async def elicit(self, key, message, schema):
        (answer,) = self.need({key: self.form(message, schema)})
        return answer.get("action"), answer.get("content") or {}

    async def sample(self, key, prompt, max_tokens=100):
        if "sampling" not in self.capabilities:
            raise MCPError(-32021, "Sampling is needed", {"requiredCapabilities": {"sampling": {}}})
        (answer,) = self.need({key: self.prompt(prompt, max_tokens)})
        return answer.get("content", {}).get("text", "")

    async def roots(self, key):
        (answer,) = self.need({key: {"method": "roots/list", "params": {}}})
        return [root["uri"] for root in answer.get("roots", [])]

    @property
    def capabilities(self):
        return self.ctx.params["_meta"]["io.modelcontextprotocol/clientCapabilities"]

    async def can_elicit(self):
        return "elicitation" in self.capabilities

    async def tools_changed(self):
        await BUS.publish(ToolsListChanged())

    async def prompts_changed(self):
        await BUS.publish(PromptsListChanged())

    async def all_three(self):
        self.need(
            {
                "user_name": self.form("What is your name?", NAME),
                "greeting": self.prompt("Generate a greeting", 50),
                "client_roots": {"method": "roots/list", "params": {}},
            }
        )


BUS = InMemorySubscriptionBus()
KEY = secrets.token_bytes(32)


def sealed(answers):
    data = json.dumps(answers).encode()
    mark = hmac.digest(KEY, data, "sha256")
    return base64.b64encode(mark + data).decode()


def opened(state):
    """Return the answers that a state carries; refuses one that is not ours."""
    if state is None:
        return {}
    try:
        raw = base64.b64decode(state, validate=True)
    except ValueError:
        raw = b""
    mark, data = raw[:32], raw[32:]
    if not hmac.compare_digest(mark, hmac.digest(KEY, data, hashlib.sha256)):
        raise MCPError(-32602, "This requestState was altered")
    return json.loads(data)


async def answered(ctx, work):
    """Run `work(asking)`; what a modern server misses becomes `input_required`."""
    if ERA == "legacy":
        return await work(Legacy(ctx))
    asking = Modern(ctx)
    try:
        return await work(asking)
    except NeedsInput as needs:
        requests = {
            key: METHODS[value["method"]].model_validate(value)
            for key, value in needs.requests.items()
        }
        return InputRequiredResult(input_requests=requests, request_state=sealed(asking.answers))


ERA = sys.argv[1]
METHODS = {
    "elicitation/create": ElicitRequest,
    "sampling/createMessage": CreateMessageRequest,
    "roots/list": ListRootsRequest,
}


async def log(ctx, *lines):
    for line in lines:
        await ctx.session.send_log_message("info", line, related_request_id=ctx.ctx.request_id)
        await anyio.sleep(STEP_S)


TOOLS = {}
SCHEMAS = {}


def tool(name, **schema):
    """Offer a coroutine function (context, arguments) -> content list as a tool."""

    def register(function):
        TOOLS[name] = function
        SCHEMAS[name] = {"type": "object", "properties": {}} | schema
        return function

    return register


@tool("test_simple_text")
async def simple_text(ctx, arguments):
    return [text("This is a simple text response for testing.")]


@tool("test_image_content")
async def image_content(ctx, arguments):
    return [image()]


@tool("test_audio_content")
async def audio_content(ctx, arguments):
    return [AudioContent(type="audio", data=WAV, mime_type="audio/wav")]


@tool("test_embedded_resource")
async def embedded_resource(ctx, arguments):
    return [embedded("test://embedded-resource", "This is an embedded resource content.")]


@tool("test_multiple_content_types")
async def multiple_content_types(ctx, arguments):
    data = json.dumps({"test": "data", "value": 123})
    return [
        text("Multiple content types test:"),
        image(),
        embedded("test://mixed-content-resource", data, "application/json"),
    ]


@tool("test_tool_with_logging")
async def tool_with_logging(ctx, arguments):
    await log(ctx, "Tool execution started", "Tool processing data", "Tool execution completed")
    return [text("Logged three messages.")]


@tool("test_logging_tool")
async def logging_tool(ctx, arguments):
    await log(ctx, "A message that only those get who asked for it")
    return [text("Logged.")]


@tool("test_tool_with_progress")
async def tool_with_progress(ctx, arguments):
    for done in (0, 50, 100):
        await ctx.session.report_progress(done, 100)
        await anyio.sleep(STEP_S)
    return [text("Reported progress.")]


@tool("test_error_handling")
async def error_handling(ctx, arguments):
    raise ValueError("This tool intentionally returns an error for testing")


@tool("test_sampling", **form(prompt=STRING))
async def sampling(ctx, arguments):
    return [text(f"LLM response: {await ctx.sample('answer', arguments['prompt'])}")]


@tool("test_missing_capability")
async def missing_capability(ctx, arguments):
    return [text(await ctx.sample("answer", "Needs sampling"))]


@tool("test_elicitation", **form(message=STRING))
async def elicitation(ctx, arguments):
    action, content = await ctx.elicit(
        "user", arguments["message"], form(username=STRING, email=STRING)
    )
    return [text(f"User response: action: {action}, content: {json.dumps(content)}")]


@tool("test_elicitation_sep1034_defaults")
async def elicitation_defaults(ctx, arguments):
    action, content = await ctx.elicit("values", "Please check these values", DEFAULTS)
    return [text(f"Elicitation completed: action={action}, content={json.dumps(content)}")]


@tool("test_elicitation_sep1330_enums")
async def elicitation_enums(ctx, arguments):
    action, content = await ctx.elicit("choice", "Please choose", ENUMS)
    return [text(f"Elicitation completed: action={action}, content={json.dumps(content)}")]


@tool("test_streaming_elicitation")
async def streaming_elicitation(ctx, arguments):
    action, _ = await ctx.elicit("confirm", "Please confirm", form(ok={"type": "boolean"}))
    return [text(action)]


@tool("test_input_required_result_elicitation")
async def input_elicitation(ctx, arguments):
    _, content = await ctx.elicit("user_name", "What is your name?", NAME)
    return [text(f"Hello, {content.get('name')}!")]


@tool("test_input_required_result_sampling")
async def input_sampling(ctx, arguments):
    return [text(await ctx.sample("capital_question", "What is the capital of France?"))]


@tool("test_input_required_result_list_roots")
async def input_roots(ctx, arguments):
    return [text(", ".join(await ctx.roots("client_roots")))]


@tool("test_input_required_result_request_state")
async def input_state(ctx, arguments):
    await ctx.elicit("confirm", "Please confirm", form(ok={"type": "boolean"}))
    # The state of a legacy server is the call itself; that of a modern one was signed.
    return [text("state-ok")]


@tool("test_input_required_result_tampered_state")
async def input_tampered(ctx, arguments):
    await ctx.elicit("confirm", "Please confirm", form(ok={"type": "boolean"}))
    return [text("done")]


@tool("test_input_required_result_multiple_inputs")
async def input_multiple(ctx, arguments):
    await ctx.all_three()
    return [text("Three answers.")]


@tool("test_input_required_result_multi_round")
async def input_rounds(ctx, arguments):
    _, first = await ctx.elicit("step1", "Step 1: What is your name?", NAME)
    _, second = await ctx.elicit(
        "step2", "Step 2: What is your favorite color?", form(color=STRING)
    )
    return [text(f"{first.get('name')} likes {second.get('color')}.")]


@tool("test_input_required_result_capabilities")
async def input_capabilities(ctx, arguments):
    """Ask for what the client may have."""
    with_elicitation = await ctx.can_elicit()
    answer = await ctx.sample("greeting", "Generate a greeting")
    return [text(f"{answer} (elicitation: {with_elicitation})")]


@tool("test_trigger_tool_change")
async def trigger_tool_change(ctx, arguments):
    await ctx.tools_changed()
    return [text("ok")]


@tool("test_trigger_prompt_change")
async def trigger_prompt_change(ctx, arguments):
    await ctx.prompts_changed()
    return [text("ok")]


@tool(
    "test_header_parameter",
    **form(region={"type": "string", "x-mcp-header": "Region"}),
)
async def header_parameter(ctx, arguments):
    return [text(arguments["region"])]


@tool(
    "json_schema_2020_12_tool",
    **{
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": {
            "address": {
                "$anchor": "addressDef",
                "type": "object",
                "properties": {"street": STRING, "city": STRING},
            }
        },
        "properties": {
            "name": STRING,
            "address": {"$ref": "#/$defs/address"},
            "contactMethod": {"type": "string", "enum": ["phone", "email"]},
            "phone": STRING,
            "email": STRING,
        },
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
        "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
        "then": {"required": ["phone"]},
        "else": {"required": ["email"]},
        "additionalProperties": False,
    },
)
async def json_schema(ctx, arguments):
    return [text("ok")]


async def list_tools(ctx, params):
    return ListToolsResult(
        tools=[
            Tool(name=name, description=f"Conformance fixture {name}", input_schema=schema)
            for name, schema in SCHEMAS.items()
        ]
    )


async def call_tool(ctx, params):
    found = TOOLS.get(params.name)
    if found is None:
        raise MCPError(-32602, f"Unknown tool: {params.name}")

    async def work(asking):
        return CallToolResult(content=await found(asking, params.arguments or {}))

    try:
        return await answered(ctx, work)
    except ValueError as error:
        return CallToolResult(content=[text(str(error))], is_error=True)


def argument(name):
    return PromptArgument(name=name, description=name, required=True)


PROMPTS = {
    "test_simple_prompt": [],
    "test_prompt_with_arguments": ["arg1", "arg2"],
    "test_prompt_with_embedded_resource": ["resourceUri"],
    "test_prompt_with_image": [],
    "test_input_required_result_prompt": [],
}


async def list_prompts(ctx, params):
    return ListPromptsResult(
        prompts=[
            Prompt(name=name, description=f"Fixture {name}", arguments=[argument(a) for a in names])
            for name, names in PROMPTS.items()
        ]
    )


async def get_prompt(ctx, params):
    async def work(asking):
        return GetPromptResult(messages=await prompt_messages(asking, params))

    return await answered(ctx, work)


async def prompt_messages(ctx, params):
    given = params.arguments or {}
    if params.name == "test_simple_prompt":
        contents = [text("This is a simple prompt for testing.")]
    elif params.name == "test_prompt_with_arguments":
        contents = [text(f"Prompt with arguments: arg1='{given['arg1']}', arg2='{given['arg2']}'")]
    elif params.name == "test_prompt_with_embedded_resource":
        contents = [
            embedded(given["resourceUri"], "Embedded resource content for testing."),
            text("Please process the embedded resource above."),
        ]
    elif params.name == "test_prompt_with_image":
        contents = [image(), text("Please analyze the image above.")]
    elif params.name == "test_input_required_result_prompt":
        _, answer = await ctx.elicit(
            "user_context", "What context should the prompt use?", form(context=STRING)
        )
        contents = [text(f"Context: {answer.get('context')}")]
    else:
        raise MCPError(-32602, f"Unknown prompt: {params.name}")
    return [PromptMessage(role="user", content=c) for c in contents]


RESOURCES = {
    "test://static-text": "text/plain",
    "test://static-binary": "image/png",
    "test://watched-resource": "text/plain",
}


async def list_resources(ctx, params):
    return ListResourcesResult(
        resources=[
            Resource(uri=uri, name=uri.partition("://")[2], description=uri, mime_type=kind)
            for uri, kind in RESOURCES.items()
        ]
    )


async def list_templates(ctx, params):
    template = ResourceTemplate(
        uri_template="test://template/{id}/data",
        name="template",
        description="A resource by id",
        mime_type="application/json",
    )
    return ListResourceTemplatesResult(resource_templates=[template])


async def read_resource(ctx, params):
    uri = str(params.uri)
    kind = RESOURCES.get(uri)
    if uri == "test://static-binary":
        content = BlobResourceContents(uri=uri, mime_type=kind, blob=PNG)
    elif kind is not None:
        value = "This is the content of the static text resource."
        content = TextResourceContents(uri=uri, mime_type=kind, text=value)
    elif uri.startswith("test://template/") and uri.endswith("/data"):
        number = uri.removeprefix("test://template/").removesuffix("/data")
        value = {"id": number, "templateTest": True, "data": f"Data for ID: {number}"}
        content = TextResourceContents(
            uri=uri, mime_type="application/json", text=json.dumps(value)
        )
    else:
        raise MCPError(RESOURCE_NOT_FOUND[ERA], "Resource not found", {"uri": uri})
    return ReadResourceResult(contents=[content])


async def complete(ctx, params):
    values = [v for v in ("test", "testing") if v.startswith(params.argument.value)]
    return CompleteResult(completion=Completion(values=values, total=len(values), has_more=False))


async def accept(ctx, params):
    return EmptyResult()


async def only_this_era(ctx, call_next):
    """Refuse what belongs to the other era, which the SDK would serve."""
    opening = "initialize" if ERA == "modern" else "server/discover"
    if ctx.method == opening:
        raise MCPError(-32022 if ERA == "modern" else -32601, "Not of this era", UNSUPPORTED[ERA])
    return await call_next(ctx)


UNSUPPORTED = {"legacy": None, "modern": {"supported": ["2026-07-28"]}}


OF_AN_ERA = {
    "legacy": {
        "on_subscribe_resource": accept,
        "on_unsubscribe_resource": accept,
        "on_set_logging_level": accept,
    },
    "modern": {
        "on_subscriptions_listen": ListenHandler(BUS),
        # an older SDK handler: with it the server says that it logs
        "on_set_logging_level": accept,
    },
}


async def main():
    server = Server(
        "conformance-fixture",
        version="1.0.0",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_prompts=list_prompts,
        on_get_prompt=get_prompt,
        on_list_resources=list_resources,
        on_list_resource_templates=list_templates,
        on_read_resource=read_resource,
        on_completion=complete,
        **OF_AN_ERA[ERA],
    )
    server.middleware.append(only_this_era)
    changes = NotificationOptions(prompts_changed=True, resources_changed=True, tools_changed=True)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options(changes))


if __name__ == "__main__":
    anyio.run(main)
