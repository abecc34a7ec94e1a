"""Python servers forked from a process that has imported their packages once: code of both sides."""
