"""The isolation check: two synthetic users against one MCP server, with evidence.

The server runs in the sandbox with stand-ins for everything that it may reach. User A plants
canaries by every way that the server offers; user B, who was told nothing, looks around. What of A
reaches B is a finding; a run without A says what B would have seen anyway.

    subject (what is checked) > lab (where it runs) > session (how it is called) > script (what is
    called) > probes (what is looked for) > verdict > report

Nothing here knows a particular server. The hub's data plane does not use this package.
"""
