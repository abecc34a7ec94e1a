"""What the hub must do between clients and servers, where it is said, and which tests show it.

A test may say itself what it shows: `@pytest.mark.requirement("7")`. `unit/test_requirements.py` keeps
both sides together: every requirement has tests that exist, and every test that names a requirement is
listed with it. Values only. "MCP" is the specification, with the revision; "derived" is a rule of the
hub's own, for which the specification has no text. R numbers are those of the security boundary.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Requirement:
    """One requirement.

    Attributes:
        id: Number, or R and the number of a rule.
        text: What must be so.
        source: Where that comes from.
        tests: `file::test` below `tests`; at least one.
    """

    id: str
    text: str
    source: str
    tests: tuple[str, ...]


_ASKING = "interaction/test_asking.py::"
_AGGREGATION = "interaction/test_aggregation.py::"
_BRIDGE = "interaction/test_cli_connect.py::"
_CONFORMANCE = "conformance/test_conformance.py::"
_EXTENSIONS = "interaction/test_extensions.py::"
_FIDELITY = "properties/test_fidelity.py::"
_FRONT = "interaction/test_front_door.py::"
_GATEWAY = "interaction/test_gateway.py::"
_HTTP = "interaction/test_http_upstream.py::"
_IDENTITY = "security/test_rules_identity.py::"
_ISOLATION = "security/test_rules_isolation.py::"
_MODERN = "interaction/test_modern_upstream.py::"
_OAUTH = "interaction/test_oauth.py::"
_OPENING = "interaction/test_opening_servers.py::"
_RULES = "interaction/test_modern_rules.py::"
_RULES_HTTP = "security/test_rules_http.py::"
_SSE = "interaction/test_sse_upstream.py::"
_OLD_SSE = "interaction/test_old_sse.py::"
_OVERLOAD = "interaction/test_overload.py::"
_TRANSLATION = "interaction/test_translation.py::"
_VANISHING = "chaos/test_front.py::"

REQUIREMENTS: Final = (
    Requirement(
        "1", "One address serves clients of both eras at once.",
        "MCP 2026-07-28 basic/versioning §Compatibility",
        (
            _CONFORMANCE + "test_the_hub_conforms_to_the_revision",
            _FRONT + "test_clients_of_every_revision_work_at_one_address_at_the_same_time",
            _FRONT + "test_a_discover_and_an_initialize_may_cross",
            _FRONT + "test_a_modern_request_neither_needs_nor_makes_nor_touches_a_session",
            "e2e/test_client_matrix.py::test_a_client_does_with_a_server_what_both_can",
        ),
    ),
    Requirement(
        "2", "The conformance suites pass through the hub.",
        "MCP conformance 0.2.0-alpha.12",
        (_CONFORMANCE + "test_the_hub_conforms_to_the_revision",),
    ),
    Requirement(
        "3", "server/discover tells versions, capabilities, extensions, and that it is private.",
        "MCP 2026-07-28 server/discover, server/utilities/caching",
        (_FRONT + "test_discovery_tells_versions_capabilities_and_extensions",),
    ),
    Requirement(
        "4", "Headers that route agree with the body, in plain and in base64.",
        "MCP 2026-07-28 basic/transports/streamable-http §Server Validation",
        (
            _FRONT + "test_headers_that_say_something_else_than_the_body_are_refused",
            _FRONT + "test_names_in_base64_are_read_and_repeated_headers_refused",
            _IDENTITY + "test_a_header_that_decides_something_comes_once",
        ),
    ),
    Requirement(
        "5", "Headers that repeat arguments agree with the body, by the schema that the caller sees.",
        "MCP 2026-07-28 server/tools §x-mcp-header",
        (
            "unit/test_parameters.py::test_headers_that_say_something_else_are_refused",
            "unit/test_parameters.py::test_headers_that_say_the_same_pass",
            _TRANSLATION
            + "test_calling_a_tool_never_lists_tools_and_headers_come_from_the_list_of_the_user",
        ),
    ),
    Requirement(
        "6", "Unknown methods and missing _meta have the code and status of their era.",
        "MCP 2026-07-28 basic §Error Codes",
        (
            _FRONT + "test_unknown_methods_and_missing_meta_have_the_status_of_their_era",
            _RULES + "test_methods_of_the_legacy_era_are_not_found_in_the_modern_one",
            _RULES + "test_an_unknown_method_is_not_found_where_many_servers_are",
        ),
    ),
    Requirement(
        "7", "Legacy revisions are negotiated; sessions and batches keep the rules of theirs.",
        "MCP 2025-11-25 basic/transports §Session Management; 2025-03-26 §Batching",
        (
            _FRONT + "test_clients_of_every_revision_work_at_one_address_at_the_same_time",
            _FRONT + "test_an_unknown_revision_gets_the_latest_that_has_sessions",
            _FRONT + "test_sessions_keep_the_rules_of_streamable_http",
            _FRONT + "test_a_missing_version_header_is_fine_and_a_wrong_one_is_not",
            _RULES_HTTP + "test_a_batch_is_for_one_old_version_and_has_rules",
            _OLD_SSE + "test_the_sse_client_lists_calls_and_hears_progress",
        ),
    ),
    Requirement(
        "8", "Foreign Host and Origin are refused; the hub listens on loopback.",
        "MCP 2026-07-28 streamable-http §Security Warning",
        (
            _RULES_HTTP + "test_a_foreign_host_is_refused_at_every_door",
            _RULES_HTTP + "test_a_foreign_origin_is_refused_at_every_door",
            _FRONT + "test_the_hub_listens_on_loopback_unless_it_is_told_otherwise",
        ),
    ),
    Requirement(
        "9", "Event streams are not buffered and kept alive; JSON where it will do; 5 MB pass.",
        "MCP 2026-07-28 streamable-http §Sending Messages; derived",
        (
            _FRONT + "test_a_result_of_five_megabytes_arrives_whole",
            _FRONT + "test_an_answer_is_json_until_there_is_something_to_say_before_it",
            _FRONT + "test_quiet_streams_are_kept_alive",
            _RULES_HTTP + "test_a_body_over_the_limit_is_refused_however_it_is_sent",
        ),
    ),
    Requirement(
        "10", "Ids come back exactly; null and fractions are refused.",
        "JSON-RPC 2.0 §4, MCP basic §Requests",
        (
            _RULES_HTTP + "test_an_id_of_any_size_comes_back_as_it_was",
            _RULES_HTTP + "test_what_is_no_message_is_a_400_and_the_session_lives_on",
            "properties/test_wire.py::test_ids_that_are_neither_text_nor_integer_are_refused",
        ),
    ),
    Requirement(
        "10a", "Openings that mix the eras, or come twice, end in a session that works.",
        "derived: what clients do",
        (
            _FRONT + "test_sloppy_openings_end_in_a_session_that_works",
            _FRONT + "test_a_discover_and_an_initialize_may_cross",
            _FRONT + "test_a_probe_does_not_wait_for_a_server_that_is_slow_to_open",
            _RULES + "test_an_initialize_with_modern_headers_still_opens_a_session",
            _BRIDGE + "test_a_discover_probe_and_then_initialize_work_in_one_process",
        ),
    ),
    Requirement(
        "11", "Unknown members, nulls, numbers and definitions survive between sides of one era.",
        "MCP basic §General fields; derived",
        (
            _FIDELITY + "test_a_result_arrives_byte_for_byte_under_its_own_id",
            _FIDELITY + "test_what_a_client_sends_arrives_byte_for_byte",
            _FIDELITY + "test_a_modern_pair_keeps_every_byte_both_ways",
            _FIDELITY + "test_a_modern_client_gets_every_member_of_a_legacy_result",
            _FIDELITY + "test_deep_values_pass_both_ways",
            _FIDELITY + "test_a_bomb_of_brackets_is_told_for_what_it_is_in_both_directions",
            _FIDELITY + "test_an_event_stream_means_the_same_wherever_it_is_cut",
            _FIDELITY + "test_definitions_of_tools_survive_alone_and_among_others",
            _GATEWAY + "test_unknown_fields_and_explicit_nulls_survive_both_ways",
        ),
    ),
    Requirement(
        "12", "Methods of extensions pass raw; a task reaches only clients that declared tasks.",
        "MCP 2026-07-28 basic/versioning §Extension Negotiation; SEP-2663",
        (
            _EXTENSIONS + "test_methods_of_an_extension_pass_raw_where_there_is_one_server",
            _EXTENSIONS + "test_a_task_is_found_by_its_own_user_only",
            _EXTENSIONS + "test_on_a_shared_server_a_task_is_found_by_its_own_user_only",
            _EXTENSIONS
            + "test_a_task_instead_of_an_answer_reaches_only_clients_that_declared_tasks",
        ),
    ),
    Requirement(
        "13", "Trace keys pass; keys of one hop are replaced and never leak.",
        "SEP-414; derived",
        (
            _GATEWAY + "test_hop_owned_meta_of_a_modern_request_stays_at_the_hub",
            _MODERN + "test_a_modern_server_gets_what_its_era_wants_and_nothing_of_the_client",
            _FIDELITY + "test_what_a_client_sends_arrives_byte_for_byte",
        ),
    ),
    Requirement(
        "14", "Apps survive among other servers; names are fit, unique and lead back.",
        "SEP-1865; MCP 2026-07-28 server/tools §Tool Names",
        (
            _EXTENSIONS + "test_tools_of_apps_survive_among_other_servers",
            _EXTENSIONS + "test_a_page_of_an_app_is_read_from_the_server_whose_tool_shows_it",
            _EXTENSIONS + "test_a_name_or_page_of_two_servers_is_an_error_that_names_them",
            _AGGREGATION + "test_every_name_is_fit_for_clients_and_leads_back_to_its_tool",
            _AGGREGATION + "test_a_list_of_several_servers_is_in_the_same_order_every_time",
            _AGGREGATION + "test_a_denied_tool_has_no_way_in_by_another_name",
        ),
    ),
    Requirement(
        "15", "Pages give each item once; cursors are sealed; a dead server fails no list.",
        "MCP server/utilities/pagination; derived",
        (
            _AGGREGATION + "test_pages_give_each_item_once_whatever_their_size",
            _AGGREGATION + "test_a_cursor_of_anybody_or_anything_else_is_refused",
            _AGGREGATION + "test_a_list_that_changes_between_pages_repeats_and_skips_nothing",
            _AGGREGATION
            + "test_a_slow_server_delays_a_list_by_its_budget_only_and_is_named",
        ),
    ),
    Requirement(
        "16", "The era of a server is found out whatever it does on the probe, kept, and tried anew.",
        "MCP 2026-07-28 basic/versioning §Backward Compatibility",
        (
            _OPENING + "test_a_legacy_server_that_is_difficult_about_the_probe_works",
            _OPENING + "test_a_server_that_the_probe_confuses_is_started_again",
            _OPENING + "test_what_a_server_speaks_is_remembered_across_restarts",
            _OPENING + "test_a_server_that_changes_its_era_is_probed_anew",
            _OPENING + "test_a_server_that_speaks_only_a_newer_revision_is_never_initialized",
            _OPENING + "test_refused_credentials_say_nothing_about_the_era",
            _SSE + "test_each_user_has_an_own_stream_with_own_credentials",
        ),
    ),
    Requirement(
        "17", "Questions of a legacy server reach a modern client; users and calls never mix.",
        "MCP 2026-07-28 basic/patterns/mrtr; 2025-11-25 client/elicitation",
        (
            _ASKING + "test_an_elicitation_is_answered_by_the_user_who_called",
            _TRANSLATION + "test_two_calls_of_one_user_keep_their_questions_apart",
        ),
    ),
    Requirement(
        "18", "Questions of a modern server reach a legacy client, in bounded rounds.",
        "MCP 2026-07-28 basic/patterns/mrtr",
        (
            _MODERN + "test_questions_of_a_modern_server_are_answered_by_the_user_who_called",
            _TRANSLATION + "test_a_server_that_asks_again_and_again_is_stopped",
        ),
    ),
    Requirement(
        "19", "A server is offered no more than the calling client can.",
        "MCP 2026-07-28 basic/patterns/mrtr §Capabilities",
        (
            _TRANSLATION + "test_a_modern_server_cannot_ask_what_the_client_did_not_declare",
            _TRANSLATION + "test_a_revision_without_elicitation_declines",
            _RULES + "test_a_call_that_fails_for_want_of_a_capability_names_it",
            _ASKING + "test_a_client_that_cannot_be_asked_is_not_waited_for",
        ),
    ),
    Requirement(
        "20", "Pages that a user must open are asked for in the way of each era.",
        "MCP 2025-11-25 client/elicitation §URL; 2026-07-28 client/elicitation",
        (
            _TRANSLATION + "test_a_page_of_a_modern_server_reaches_a_legacy_client_with_an_id",
            _TRANSLATION
            + "test_a_page_of_a_legacy_server_is_an_input_request_and_the_call_is_sent_again",
            _TRANSLATION + "test_a_page_that_is_declined_ends_the_call",
        ),
    ),
    Requirement(
        "21", "Subscriptions are bridged, counted, private, and open again after a restart.",
        "MCP 2026-07-28 basic/patterns/subscriptions",
        (
            _TRANSLATION
            + "test_a_watched_resource_is_told_to_its_watchers_only_also_after_a_restart",
            _TRANSLATION + "test_a_resource_is_watched_upstream_once_and_until_the_last_stops",
            _TRANSLATION
            + "test_a_listen_stream_is_acknowledged_first_and_carries_the_clients_own_id",
            _AGGREGATION + "test_list_changes_of_any_server_reach_exactly_their_owner",
            _FRONT + "test_a_listen_stream_opens_also_when_the_server_runs_already",
        ),
    ),
    Requirement(
        "22", "Giving up cancels at the server in the way of its era; a legacy disconnect does not.",
        "MCP 2026-07-28 basic/patterns/cancellation; 2025-11-25 basic/transports",
        (
            _TRANSLATION
            + "test_cancelling_closes_the_stream_of_a_modern_server_and_leaving_only_in_the_modern_era",
            _VANISHING + "test_a_modern_client_that_vanishes_cancels_what_it_began",
            _VANISHING
            + "test_a_legacy_client_that_vanishes_cancels_nothing_until_its_session_ends",
            _GATEWAY + "test_a_cancelled_legacy_call_is_cancelled_at_the_server",
        ),
    ),
    Requirement(
        "23", "Progress reaches the request that asked for it, under its own token.",
        "MCP basic/utilities/progress",
        (
            _GATEWAY + "test_progress_reaches_the_call_that_asked_for_it_and_no_other",
            _MODERN + "test_progress_reaches_the_call_that_it_belongs_to",
        ),
    ),
    Requirement(
        "24", "Log messages reach only requests that want them, of their own user.",
        "MCP 2026-07-28 server/utilities/logging",
        (
            _TRANSLATION + "test_log_messages_reach_the_call_that_wanted_them",
            _TRANSLATION + "test_a_modern_client_that_asked_for_no_log_gets_none",
            _GATEWAY + "test_log_messages_travel_on_the_call_of_their_user",
        ),
    ),
    Requirement(
        "25", "Members and error codes of one era do not appear in the other.",
        "MCP 2026-07-28 basic §Error Codes; derived",
        (
            _MODERN + "test_results_pass_raw_to_modern_clients_and_lose_their_era_for_legacy_ones",
            _MODERN + "test_error_codes_are_those_of_the_callers_era",
            _TRANSLATION + "test_a_legacy_client_gets_the_error_of_a_legacy_server_as_it_is",
        ),
    ),
    Requirement(
        "31", "Nothing of a client's headers reaches a server, and no server's token a client.",
        "MCP security best practices §Token Passthrough",
        (
            _HTTP + "test_nothing_of_the_clients_headers_passes_through",
            _HTTP + "test_refused_credentials_and_redirects_are_clear_errors",
        ),
    ),
    Requirement(
        "32", "Sessions, states, cursors, tasks and subscriptions are nobody else's.",
        "MCP security best practices §Session Hijacking; derived",
        (
            _IDENTITY + "test_a_session_exists_for_its_user_at_its_endpoint_only",
            _AGGREGATION + "test_a_cursor_of_anybody_or_anything_else_is_refused",
            _EXTENSIONS + "test_a_task_is_found_by_its_own_user_only",
            _EXTENSIONS + "test_on_a_shared_server_a_task_is_found_by_its_own_user_only",
            _OLD_SSE + "test_the_message_endpoint_belongs_to_its_user",
            _TRANSLATION + "test_a_state_opens_for_the_same_user_and_request_only",
            _VANISHING
            + "test_a_thousand_calls_wait_for_their_clients_and_each_gets_its_own_answer",
        ),
    ),
    Requirement(
        "33", "Towards servers the hub is an OAuth client; each grant is its own user's, sealed.",
        "MCP 2026-07-28 basic/authorization",
        (
            "conformance/test_client_auth.py::test_the_hub_conforms_as_a_client",
            _OAUTH + "test_two_users_work_with_their_own_accounts",
            _OAUTH + "test_an_answer_in_another_browser_connects_nothing",
            _OAUTH + "test_no_token_code_or_key_is_told_to_anybody",
        ),
    ),
    Requirement(
        "34", "What is private is served to its user only.",
        "MCP 2026-07-28 server/utilities/caching §Cache Scope",
        (
            _AGGREGATION + "test_list_changes_of_any_server_reach_exactly_their_owner",
            _FRONT + "test_discovery_tells_versions_capabilities_and_extensions",
            _ISOLATION + "test_what_an_instance_had_listed_dies_with_it",
        ),
    ),
    Requirement(
        "40", "Calls, sessions, streams and what waits are bounded; memory does not grow with them.",
        "MCP basic §Timeouts; derived",
        (
            _RULES_HTTP + "test_a_user_with_too_many_sessions_loses_the_longest_idle_one",
            _RULES_HTTP + "test_too_many_calls_in_flight_are_a_limit_of_one_user_only",
            _RULES_HTTP + "test_streams_of_one_user_are_bounded_and_anothers_are_free",
            _OVERLOAD + "test_a_hub_that_is_full_says_503_and_serves_who_is_in",
            _OVERLOAD + "test_a_user_with_too_many_servers_gets_429_and_another_user_none",
            _OVERLOAD + "test_inside_a_legacy_session_the_same_words_come_with_200",
            _GATEWAY + "test_a_hanging_server_times_out_and_delays_nobody",
            _ASKING + "test_parked_calls_of_a_user_are_bounded",
            _OLD_SSE + "test_a_user_holds_no_more_streams_than_sessions",
            _VANISHING + "test_clients_that_vanish_while_they_open_or_list_leave_nothing",
            _VANISHING + "test_a_client_that_does_not_read_makes_the_hub_hold_little",
            _VANISHING + "test_a_stream_that_is_not_read_keeps_its_newest_messages_only",
            _VANISHING
            + "test_a_thousand_calls_wait_for_their_clients_and_each_gets_its_own_answer",
        ),
    ),
    Requirement(
        "41", "One process serves a directory, so that sessions and what waits have one owner.",
        "derived",
        (
            "chaos/test_hub_process.py::test_a_second_hub_in_the_directory_is_refused_and_harms_the_first_in_no_way",
            "chaos/test_hub_process.py::test_of_hubs_started_at_the_same_moment_one_serves",
        ),
    ),
    Requirement(
        "42", "A tool call asks no server for its list.",
        "derived",
        (
            _AGGREGATION + "test_calling_tools_asks_no_server_for_its_list",
            _TRANSLATION
            + "test_calling_a_tool_never_lists_tools_and_headers_come_from_the_list_of_the_user",
        ),
    ),
    Requirement(
        "R2", "The hub owns every id and token on the side of the server.",
        "security boundary",
        (
            _GATEWAY + "test_fifty_users_with_colliding_ids_and_tokens_get_their_own_bytes_only",
            _ISOLATION
            + "test_a_server_that_speaks_out_of_turn_reaches_its_own_user_at_most",
        ),
    ),
    Requirement(
        "R3", "What is found by an id is found by its user only.",
        "security boundary",
        (
            _GATEWAY + "test_a_session_of_another_user_is_not_found",
            _IDENTITY + "test_a_batch_in_another_users_session_is_not_found",
            _AGGREGATION + "test_a_cursor_of_anybody_or_anything_else_is_refused",
            _OLD_SSE + "test_the_message_endpoint_belongs_to_its_user",
        ),
    ),
    Requirement(
        "R9", "What a server says outside of calls reaches its owner only.",
        "security boundary",
        (
            _GATEWAY + "test_list_changes_reach_the_owner_only",
            _AGGREGATION + "test_list_changes_of_any_server_reach_exactly_their_owner",
            _ASKING + "test_a_shared_servers_words_and_questions_reach_no_call",
        ),
    ),
    Requirement(
        "R19", "A state that a client carries works for its user and request only.",
        "security boundary",
        (
            _ASKING + "test_only_the_owner_can_continue_a_parked_call_and_only_as_it_was",
            _TRANSLATION + "test_a_state_opens_for_the_same_user_and_request_only",
        ),
    ),
)  # fmt: skip
