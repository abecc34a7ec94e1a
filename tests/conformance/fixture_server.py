"""A legacy MCP server over stdio that offers what the server scenarios of the conformance suite ask for.

Made with the official SDK; knows nothing of the hub. Names and contents are those that the suite
describes. In the 2026-07-28 scenarios a server answers `input_required`; here the same tools ask
their client in the middle of the call, as servers of the legacy era do.
"""

import json
import warnings

import anyio
from mcp import MCPError
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.stdio import stdio_server
from mcp.types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    CompleteResult,
    Completion,
    EmbeddedResource,
    EmptyResult,
    GetPromptResult,
    ImageContent,
    ListPromptsResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
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
RESOURCE_NOT_FOUND, UNSUPPORTED = -32002, -32603
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


async def elicit(ctx, message, schema):
    """Ask the user; returns action and content as the suite wants to read them."""
    answer = await ctx.session.elicit(message, schema, related_request_id=ctx.request_id)
    return answer.action, answer.content or {}


async def sample(ctx, prompt, max_tokens=100):
    """Ask the client's model; returns its text."""
    message = SamplingMessage(role="user", content=text(prompt))
    answer = await ctx.session.create_message(
        [message], max_tokens=max_tokens, related_request_id=ctx.request_id
    )
    return getattr(answer.content, "text", "")


async def log(ctx, *lines):
    for line in lines:
        await ctx.session.send_log_message("info", line, related_request_id=ctx.request_id)
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
    return [text(f"LLM response: {await sample(ctx, arguments['prompt'])}")]


@tool("test_missing_capability")
async def missing_capability(ctx, arguments):
    return [text(await sample(ctx, "Needs sampling"))]


@tool("test_elicitation", **form(message=STRING))
async def elicitation(ctx, arguments):
    action, content = await elicit(ctx, arguments["message"], form(username=STRING, email=STRING))
    return [text(f"User response: action: {action}, content: {json.dumps(content)}")]


@tool("test_elicitation_sep1034_defaults")
async def elicitation_defaults(ctx, arguments):
    action, content = await elicit(ctx, "Please check these values", DEFAULTS)
    return [text(f"Elicitation completed: action={action}, content={json.dumps(content)}")]


@tool("test_elicitation_sep1330_enums")
async def elicitation_enums(ctx, arguments):
    action, content = await elicit(ctx, "Please choose", ENUMS)
    return [text(f"Elicitation completed: action={action}, content={json.dumps(content)}")]


@tool("test_streaming_elicitation")
async def streaming_elicitation(ctx, arguments):
    action, _ = await elicit(ctx, "Please confirm", form(ok={"type": "boolean"}))
    return [text(action)]


@tool("test_input_required_result_elicitation")
async def input_elicitation(ctx, arguments):
    _, content = await elicit(ctx, "What is your name?", NAME)
    return [text(f"Hello, {content.get('name')}!")]


@tool("test_input_required_result_sampling")
async def input_sampling(ctx, arguments):
    return [text(await sample(ctx, "What is the capital of France?"))]


@tool("test_input_required_result_list_roots")
async def input_roots(ctx, arguments):
    found = await ctx.session.list_roots()
    return [text(", ".join(str(root.uri) for root in found.roots))]


@tool("test_input_required_result_request_state")
async def input_state(ctx, arguments):
    await elicit(ctx, "Please confirm", form(ok={"type": "boolean"}))
    # The state of a legacy server is the call itself: it is still the one that began.
    return [text("state-ok")]


@tool("test_input_required_result_tampered_state")
async def input_tampered(ctx, arguments):
    await elicit(ctx, "Please confirm", form(ok={"type": "boolean"}))
    return [text("done")]


@tool("test_input_required_result_multiple_inputs")
async def input_multiple(ctx, arguments):
    async with anyio.create_task_group() as group:
        group.start_soon(elicit, ctx, "What is your name?", NAME)
        group.start_soon(sample, ctx, "Generate a greeting", 50)
        group.start_soon(ctx.session.list_roots)
    return [text("Three answers.")]


@tool("test_input_required_result_multi_round")
async def input_rounds(ctx, arguments):
    _, first = await elicit(ctx, "Step 1: What is your name?", NAME)
    _, second = await elicit(ctx, "Step 2: What is your favorite color?", form(color=STRING))
    return [text(f"{first.get('name')} likes {second.get('color')}.")]


@tool("test_input_required_result_capabilities")
async def input_capabilities(ctx, arguments):
    """Ask for what the client may have; a legacy server learns of a single call only by asking."""
    with_elicitation = True
    try:
        await elicit(ctx, "What is your name?", NAME)
    except MCPError:
        with_elicitation = False
    answer = await sample(ctx, "Generate a greeting")
    return [text(f"{answer} (elicitation: {with_elicitation})")]


@tool("test_trigger_tool_change")
async def trigger_tool_change(ctx, arguments):
    await ctx.session.send_tool_list_changed()
    return [text("ok")]


@tool("test_trigger_prompt_change")
async def trigger_prompt_change(ctx, arguments):
    await ctx.session.send_prompt_list_changed()
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
    try:
        return CallToolResult(content=await found(ctx, params.arguments or {}))
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
        _, answer = await elicit(ctx, "What context should the prompt use?", form(context=STRING))
        contents = [text(f"Context: {answer.get('context')}")]
    else:
        raise MCPError(-32602, f"Unknown prompt: {params.name}")
    return GetPromptResult(messages=[PromptMessage(role="user", content=c) for c in contents])


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
        raise MCPError(RESOURCE_NOT_FOUND, "Resource not found", {"uri": uri})
    return ReadResourceResult(contents=[content])


async def complete(ctx, params):
    values = [v for v in ("test", "testing") if v.startswith(params.argument.value)]
    return CompleteResult(completion=Completion(values=values, total=len(values), has_more=False))


async def accept(ctx, params):
    return EmptyResult()


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
        on_subscribe_resource=accept,
        on_unsubscribe_resource=accept,
        on_completion=complete,
        on_set_logging_level=accept,
    )
    changes = NotificationOptions(prompts_changed=True, resources_changed=True, tools_changed=True)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options(changes))


if __name__ == "__main__":
    anyio.run(main)
