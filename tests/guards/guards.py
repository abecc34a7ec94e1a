"""Which line of the source keeps which rule, and the test that notices when it is gone.

The rules are those of `docs/explanation/security-boundary.md`. A guard here is the smallest change
of the source that breaks the rule: `line` is what stands in `file` (exactly once), `without` what
stands there in the copy that the test runs on.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Guard:
    """One way to break one rule.

    Attributes:
        rule: Name of the rule, `R1` to `R24`.
        what: What the guard does, in a few words.
        file: Below `src/mcphub`.
        line: Text of the guard, as it stands in the file exactly once.
        without: Text that takes its place.
        test: The test that must fail then, as pytest names it, below `tests`.
    """

    rule: str
    what: str
    file: str
    line: str
    without: str
    test: str


GUARDS: Final = (
    Guard(
        "R1", "a listing is of its owner only", "vault/vault.py",
        ".where(c.user_id == principal.user_id)\n            .order_by",
        ".order_by",
        "security/test_rules_identity.py::test_no_route_gives_or_takes_anything_of_another_user",
    ),
    Guard(
        "R2", "progress goes to the call whose token the hub made up", "upstream/upstream.py",
        'exchange = self._pending.get(number(bytes(params.get("progressToken", b""))))',
        "exchange = next(reversed(self._pending.values()), None)",
        "interaction/test_gateway.py::test_progress_reaches_the_call_that_asked_for_it_and_no_other",
    ),
    Guard(
        "R2", "a server's plain answer has one id and is one message", "wire/splicing.py",
        "return _TOLD.decode(line[start:end])",
        "return Told()",
        "security/test_hostile_answers.py::test_a_server_answers_no_request_but_the_one_it_got",
    ),
    Guard(
        "R2", "a server's large plain answer has one id and is one message", "wire/splicing.py",
        "members = envelope.members_of(memoryview(line)[start:end])",
        "members: dict[str, msgspec.Raw] = {}",
        "unit/test_splicing.py::test_a_large_result_with_a_second_id_or_a_second_message_is_not_plain",
    ),
    Guard(
        "R1", "a remembered head ends with its generation", "gateway/heads.py",
        "        if head.generation != plane.access.generation:\n            return False\n",
        "",
        "interaction/test_ways.py::test_a_revoked_key_is_refused_on_the_next_call_of_a_known_way",
    ),
    Guard(
        "R3", "a known way ends with its session", "gateway/warm.py",
        "session.ended or ",
        "",
        "interaction/test_ways.py::test_an_ended_session_goes_no_known_way",
    ),
    Guard(
        "R2", "a known way takes no id that is in flight", "gateway/warm.py",
        " or raw_id in session.calls",
        "",
        "interaction/test_ways.py::test_a_second_request_with_an_id_that_is_in_flight_is_refused",
    ),
    Guard(
        "R8", "a request that says who its user is has no known way", "upstream/upstream.py",
        "if outgoing.tell is not None or outgoing.progress_token:",
        "if outgoing.progress_token:",
        "interaction/test_user_context.py::test_users_of_one_shared_program_are_kept_apart_by_it",
    ),
    Guard(
        "R2", "what a server says beside its answer is no answer to anything", "upstream/connection.py",
        "self._keeps = self._keeps and not self._complete",
        "pass",
        "unit/test_http1.py::test_a_second_answer_is_nobodys",
    ),
    Guard(
        "R20", "no header of a request to a server holds a line break", "upstream/http1.py",
        "if not (value.isprintable() or _VALUE.fullmatch(value)) or not _NAME.fullmatch(name):",
        "if not name:",
        "unit/test_http1.py::test_headers_are_merged_by_name_and_none_holds_a_line_break",
    ),
    Guard(
        "R24", "what a user's clients do not read is bounded", "gateway/bounded.py",
        "            one.abort()\n",
        "",
        "interaction/test_shares.py::test_answers_that_nobody_reads_are_bounded_for_each_user",
    ),
    Guard(
        "R24", "connections of one user are bounded", "gateway/crowd.py",
        "if len(own) >= self._per_user:",
        "if False:",
        "interaction/test_crowds.py::test_a_user_whose_connections_are_all_in_use_gets_429_and_others_get_in",
    ),
    Guard(
        "R24", "strangers keep nobody out", "gateway/crowd.py",
        "if self._count >= self._total:",
        "if False:",
        "interaction/test_crowds.py::test_strangers_who_only_connect_keep_nobody_out",
    ),
    Guard(
        "R9", "a stream follows the groups of its user", "gateway/streams.py",
        "covers=lambda server: _covers(plane, caller(), target, server),\n        log_level",
        "covers=lambda server, first=caller(): _covers(plane, first, target, server),\n        log_level",
        "interaction/test_withdrawn.py::test_an_open_stream_tells_no_more_of_a_server_once_its_user_left_the_group",
    ),
    Guard(
        "R1", "an instance ends with its owner's right to its server", "gateway/access.py",
        "return self._revision(owner, spec) == revision and self._may_have(owner, server)",
        "return self._revision(owner, spec) == revision",
        "interaction/test_withdrawn.py::test_an_instance_ends_when_its_user_may_not_use_its_server_any_more",
    ),
    Guard(
        "R7", "a shared instance ends when sharing does", "gateway/access.py",
        "return may_share(self._facts(self.specs[server]), self._host)",
        "return True",
        "interaction/test_settings_edit.py::test_a_server_that_may_not_be_shared_any_more_serves_nobody_together",
    ),
    Guard(
        "R5", "an edit of the settings counts without a database", "hub.py",
        "        self.access.take_settings()\n",
        "",
        "interaction/test_settings_edit.py::test_an_edit_counts_also_when_the_database_fails_at_that_moment",
    ),
    Guard(
        "R3", "a session is found by its owner only", "gateway/sessions.py",
        "session is None or session.user_id != principal.user_id or",
        "session is None or",
        "security/test_rules_identity.py::test_a_session_exists_for_its_user_at_its_endpoint_only",
    ),
    Guard(
        "R3", "a cursor is its user's", "gateway/paging.py",
        '["mcphub cursor 1", call.principal.user_id, call.target.path, call.method]',
        '["mcphub cursor 1", "", call.target.path, call.method]',
        "interaction/test_aggregation.py::test_a_cursor_of_anybody_or_anything_else_is_refused",
    ),
    Guard(
        "R4", "a client's user context is stripped", "wire/translate.py",
        "        if key not in HOP_META\n",
        "",
        "security/test_rules_identity.py::test_the_user_context_of_a_caller_never_reaches_a_server",
    ),
    Guard(
        "R5", "a credential is its owner's", "vault/vault.py",
        "c.user_id == owner, c.server == server, c.slot.in_(wanted)",
        "c.server == server, c.slot.in_(wanted)",
        "security/test_rules_identity.py::test_a_missing_credential_is_nobody_elses_and_not_the_operators",
    ),
    Guard(
        "R5", "a slot of credentialSlots has the caller's own value or none", "spawn/launching.py",
        "secrets = await self._vault.open_for(permit, spec.slot_names)",
        'secrets = {name: Secret("anybody\'s") for name in spec.slot_names}',
        "interaction/test_user_context.py"
        "::test_a_declared_credential_reaches_the_server_with_its_own_user_only[header]",
    ),
    Guard(
        "R6", "a header that authenticates comes once", "gateway/http.py",
        "if name in found and name not in _SEVERAL:",
        "if False:",
        "security/test_rules_identity.py::test_two_credentials_in_one_request_are_refused",
    ),
    Guard(
        "R6", "who lost a right while a body arrived has lost it", "gateway/intake.py",
        "if known != plane.access.generation:",
        "if False:",
        "interaction/test_withdrawn.py"
        "::test_a_request_whose_body_comes_after_its_caller_lost_the_right_is_refused",
    ),
    Guard(
        "R6", "who lost a right while a body arrived has lost it, in the fast lane too", "gateway/fastlane.py",
        "if not (self._heads.counts(arrived.head) and self._send(arrived.head, body)):",
        "if not self._send(arrived.head, body):",
        "security/test_doors.py"
        "::test_a_key_that_is_revoked_while_a_body_arrives_is_refused[100-fast-lane]",
    ),
    Guard(
        "R6", "who lost a right while a request was signed has lost it", "gateway/relay.py",
        "ready(onward, params)\n            check_permit(plane, call, to.permit, known)",
        "ready(onward, params)",
        "interaction/test_user_context.py"
        "::test_who_loses_the_right_while_a_large_request_is_signed_sends_nothing[legacy-legacy]",
    ),
    Guard(
        "R6", "who lost a right while a server started has lost it", "gateway/starting.py",
        "if known == plane.access.generation:",
        "if True:",
        "interaction/test_withdrawn.py"
        "::test_a_call_that_waits_for_a_start_goes_no_further_once_it_is_not_permitted",
    ),
    Guard(
        "R15", "a flow ends with the key that it was begun with", "oauth/flows.py",
        "        if not self._may(flow.permit) or store.spec(flow.server) is None:",
        "        if store.spec(flow.server) is None:",
        "interaction/test_oauth_withdrawn.py::test_a_flow_ends_with_what_it_was_begun_with",
    ),
    Guard(
        "R7", "what nobody classified is critical", "policy/decide.py",
        "return server.risk in (None, RiskLevel.CRITICAL)",
        "return server.risk is RiskLevel.CRITICAL",
        "properties/test_policy_properties.py::test_unclassified_permits_exactly_what_critical_does",
    ),
    Guard(
        "R7", "sharing needs evidence for this very version", "policy/decide.py",
        "return evidence is not None and bool(server.version) and evidence.version == server.version",
        "return True",
        "unit/test_policy_decide.py::test_isolation_is_never_widened_and_the_permit_says_so",
    ),
    Guard(
        "R8", "a list that an instance gave is kept with that instance", "gateway/catalogs.py",
        "self._own[(instance.id, kind.method)] = known",
        "self._own[(instance.server, kind.method)] = known",
        "security/test_rules_isolation.py::test_what_an_instance_had_listed_dies_with_it",
    ),
    Guard(
        "R8", "what a shared server lists for one user is kept for nobody", "gateway/catalogs.py",
        "if tell is not None and not owned:",
        "if False:",
        "interaction/test_user_context.py::test_users_of_one_shared_program_are_kept_apart_by_it",
    ),
    Guard(
        "R9", "a notification goes to the instance's owner", "gateway/listen.py",
        "for outlet in self._by_user.get(instance.owner, ()):\n                outlet.offer(instance.server, message, unasked=unasked)",
        "for outlets in self._by_user.values():\n"
        "                for outlet in outlets:\n"
        "                    outlet.offer(instance.server, message, unasked=unasked)",
        "interaction/test_gateway.py::test_list_changes_reach_the_owner_only",
    ),
    Guard(
        "R9", "a warm worker is taken for ever", "spawn/warm/stock.py",
        "worker = shelf.waiting.pop(0)",
        "worker = shelf.waiting[0]",
        "security/test_warm.py::test_a_worker_serves_one_user_and_is_never_put_back",
    ),
    Guard(
        "R10", "a warm worker's environment is its user's only", "spawn/warm/worker.cjs",
        "for (const name of Object.keys(process.env)) delete process.env[name];",
        "",
        "security/test_warm.py::test_the_environment_of_a_waiting_worker_holds_nothing_of_the_hub",
    ),
    Guard(
        "R10", "a server's own modules do not run before their user is known",
        "spawn/warm/worker.cjs",
        'const CLOSED = "data:text/javascript,throw 0";',
        'const CLOSED = "data:text/javascript,0";',
        "security/test_warm.py::test_a_module_that_was_linked_early_runs_when_its_user_is_known",
    ),
    Guard(
        "R10", "an environment begins empty", "spawn/building.py",
        "return defaults | plain",
        'return dict(__import__("os").environ) | defaults | plain',
        "security/test_rules_isolation.py::test_no_child_ever_has_the_hubs_environment",
    ),
    Guard(
        "R11", "system calls are filtered", "spawn/bubblewrap.py",
        "if seccomp_fd is not None:",
        "if False:",
        "security/test_sandbox.py::test_a_hostile_server_is_refused",
    ),
    Guard(
        "R11", "a user has an own kernel uid", "spawn/sandboxed.py",
        "uid=self.settings.uid_base + launch.number if self._root else None,",
        "uid=self.settings.uid_base if self._root else None,",
        "security/test_rules_isolation.py::test_two_users_never_share_a_process_a_uid_or_a_home",
    ),
    Guard(
        "R11", "a forked child has its limits before it reads what to be", "spawn/zygote/child.py",
        'os.write(fd, b"0")',
        "pass",
        "security/test_zygote.py::"
        "test_every_process_of_a_forked_instance_is_in_the_groups_of_that_instance",
    ),
    Guard(
        "R11", "a forked child without limits is refused", "spawn/zygote/spawner.py",
        "if not group.holds(child.pid):",
        "if False:",
        "security/test_zygote.py::"
        "test_a_child_that_does_not_join_its_groups_never_becomes_an_instance",
    ),
    Guard(
        "R14", "a foreign Host is refused", "gateway/door.py",
        "return name in _LOOPBACK or host in self._hosts or name in self._hosts",
        "return True",
        "security/test_rules_http.py::test_a_foreign_host_is_refused_at_every_door",
    ),
    Guard(
        "R14", "a foreign Origin is refused", "gateway/door.py",
        'return scheme in {"http", "https"} and _name(authority) in _LOOPBACK',
        "return True",
        "security/test_rules_http.py::test_a_foreign_origin_is_refused_at_every_door",
    ),
    Guard(
        "R15", "an answer belongs to the browser in which its user gave the key", "oauth/flows.py",
        "if flow.browser and not hmac.compare_digest(flow.browser, _digest(browser)):",
        "if False:",
        "interaction/test_oauth.py::test_an_answer_in_another_browser_connects_nothing",
    ),
    Guard(
        "R15", "a flow is confirmed by the user who began it", "oauth/flows.py",
        "if flow.user_id != user_id or flow.server != server:",
        "if flow.server != server:",
        "interaction/test_oauth.py"
        "::test_a_confirmation_is_for_the_user_and_server_that_it_was_made_for",
    ),
    Guard(
        "R15", "a state is used once", "oauth/flows.py",
        "        self._drop(flow)\n        if flow.browser and",
        "        if flow.browser and",
        "interaction/test_oauth.py::test_an_answer_is_taken_once",
    ),
    Guard(
        "R15", "the issuer that was asked answers", "oauth/flows.py",
        "if issuer != flow.grant.issuer:",
        "if False:",
        "interaction/test_oauth.py::test_only_the_issuer_that_was_asked_may_answer",
    ),
    Guard(
        "R15", "no authorization server without PKCE", "oauth/discovery.py",
        'if "S256" not in (found.code_challenge_methods_supported or ()):',
        "if False:",
        "interaction/test_oauth.py"
        "::test_an_authorization_server_that_cannot_be_trusted_is_refused",
    ),
    Guard(
        "R15", "metadata speak of the server itself", "oauth/discovery.py",
        "if not covers(found.resource, spec.url):",
        "if False:",
        "interaction/test_oauth.py::test_a_server_that_names_another_resource_is_refused",
    ),
    Guard(
        "R15", "a token is sent to the resource that it is for", "oauth/keeping.py",
        "or not _is_for(grant, spec)",
        "",
        "interaction/test_oauth.py::test_a_token_goes_to_no_other_server_than_the_one_it_is_for",
    ),
    Guard(
        "R16", "one refresh for all who wait", "oauth/connections.py",
        "        if self._renewal is None:\n",
        "        if True:\n",
        "interaction/test_oauth.py"
        "::test_calls_in_parallel_wait_for_one_refresh_and_nobody_elses",
    ),
    Guard(
        "R16", "a new token is stored before it is used", "oauth/connections.py",
        "if not await store.vault.renew(self._permit, OAUTH_SLOT, self._text, text):",
        "if False:",
        "interaction/test_oauth.py::test_a_new_token_is_stored_before_it_is_used",
    ),
    Guard(
        "R17", "a key file that others can read is refused", "vault/keys.py",
        "if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:",
        "if not stat.S_ISREG(status.st_mode):",
        "security/test_rules_secrets.py::test_a_hub_refuses_a_key_file_that_others_can_read",
    ),
    Guard(
        "R17", "every installation makes its own key", "vault/keys.py",
        "secrets.token_bytes(_KEY_BYTES)",
        "bytes(_KEY_BYTES)",
        "security/test_rules_secrets.py::test_every_installation_makes_its_own_keys",
    ),
    Guard(
        "R19", "a carried state is its user's", "gateway/states.py",
        "user, path = call.principal.user_id, call.target.path",
        'user, path = "", call.target.path',
        "interaction/test_translation.py::test_a_state_opens_for_the_same_user_and_request_only",
    ),
    Guard(
        "R20", "a name is connected to at an address that was checked", "oauth/requesting.py",
        "admitted = [one for one in known if self._admits(one[0])]",
        "admitted = known",
        "unit/test_oauth_fetching.py::test_a_name_is_judged_by_the_address_that_is_connected_to",
    ),
    Guard(
        "R20", "a user's value is one part of a URL", "spawn/launching.py",
        'return Secret(quote(value.reveal(), safe=""))',
        "return value",
        "interaction/test_http_upstream.py::test_a_value_in_a_url_is_one_part_of_it",
    ),
    Guard(
        "R20", "an address in a URL is a public one", "oauth/fetching.py",
        "if _is_address(host) and not self.admits(target, host):",
        "if False:",
        "unit/test_oauth_fetching.py"
        "::test_a_url_that_leads_elsewhere_is_refused_before_anything_is_resolved",
    ),
    Guard(
        "R20", "no redirect is followed", "oauth/requesting.py",
        "allow_redirects=False",
        "allow_redirects=True",
        "unit/test_oauth_fetching.py::test_a_redirect_is_an_answer_and_no_way_to_go",
    ),
    Guard(
        "R23", "a home is named by an opaque id", "spawn/launching.py",
        "owner=principal.user_id,\n            number",
        "owner=principal.user_name,\n            number",
        "security/test_rules_isolation.py::test_homes_are_named_by_opaque_ids_only",
    ),
    Guard(
        "R24", "secrets are redacted by value", "spawn/stderr.py",
        "return self._pattern.sub(_MARK, text) if self._pattern else text",
        "return text",
        "contracts/test_spawner.py::test_stderr_is_bounded_neutralised_and_without_secrets",
    ),
    Guard(
        "R24", "a worker's stderr hides what its user brought", "spawn/warm/spawner.py",
        "process.stderr.know(laid.secrets_of(launch), ",
        "process.stderr.know([], ",
        "security/test_warm.py::test_a_secret_that_a_worker_got_late_is_hidden_in_its_stderr",
    ),
    Guard(
        "R24", "what stands in a user's files is hidden in stderr", "spawn/laid.py",
        "found = {text.reveal() for text in texts if isinstance(text, Secret)}",
        "found = {text.reveal() for text in launch.env.values() if isinstance(text, Secret)}",
        "contracts/test_spawner.py::test_what_a_server_says_of_its_file_is_hidden",
    ),
    Guard(
        "R23", "a file of the settings is below the home", "catalog/files.py",
        'if not written.startswith(_HOME) or {"", ".", ".."} & set(parts):',
        "if not written.startswith(_HOME):",
        "unit/test_settings_file.py::test_it_refuses",
    ),
    Guard(
        "R23", "what is removed from a home is not behind a link", "spawn/laid.py",
        "_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC",
        "_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC",
        "unit/test_file_forms.py::test_what_is_cleared_is_never_behind_a_link",
    ),
    Guard(
        "R11", "without memory of its own a server is given no file", "spawn/confined.py",
        "            laid.refuse(launch)\n",
        "            pass\n",
        "contracts/test_spawner.py::test_a_file_is_in_memory_at_its_place_in_the_home_and_nowhere_on_disk",
    ),
    Guard(
        "R5", "a credential in a file counts as one in the environment", "catalog/spec.py",
        "*self.env.values(), *self.files.values(), *self.headers",
        "*self.env.values(), *self.headers",
        "unit/test_settings_file.py::test_a_credential_in_a_file_counts_as_one_in_the_environment",
    ),
    Guard(
        "R24", "spans that wait are bounded", "audit/tracing.py",
        "if len(self._buffer) < KEPT:",
        "if True:",
        "unit/test_tracing.py::test_the_buffer_is_bounded_and_what_does_not_fit_is_counted",
    ),
    Guard(
        "R24", "a log line is bounded and acts on nothing", "cli/logs.py",
        "event[key] = neutral(value, _LONGEST)",
        "event[key] = value",
        "security/test_rules_secrets.py::test_a_log_on_a_terminal_shows_nothing_that_acts",
    ),
    Guard(
        "R4", "a user context is the caller's", "gateway/context.py",
        '"sub": self.subject(spec, principal.user_id),',
        '"sub": self.subject(spec, "u_anybody"),',
        "interaction/test_user_context.py::test_each_request_tells_its_own_user_in_headers_and_in_the_signed_context",
    ),
    Guard(
        "R18", "a user context is for one server", "gateway/context.py",
        '"aud": context.audience,',
        '"aud": "any",',
        "interaction/test_user_context.py::test_a_server_of_either_era_knows_each_user_and_keeps_them_apart",
    ),
    Guard(
        "R18", "the installation is in every token", "vault/signing.py",
        'body = msgspec.json.encode({**claims, "install": self._install_id})',
        "body = msgspec.json.encode({**claims})",
        "interaction/test_user_context.py::test_each_request_tells_its_own_user_in_headers_and_in_the_signed_context",
    ),
    Guard(
        "R20", "a declared credential does not go over plain http", "catalog/identity.py",
        'elif parts.scheme != "https" and parts.hostname not in _LOOPBACK:',
        "elif False:",
        "unit/test_told_settings.py::test_what_cannot_be_told_safely_stops_the_settings",
    ),
    Guard(
        "R22", "of what a build made only plain files are taken", "catalog/native.py",
        "if _leads_inside(source, root):",
        "if True:",
        "security/test_native_builds.py::test_a_build_reaches_nothing_but_its_own_package_and_leaves_plain_files",
    ),
)  # fmt: skip
