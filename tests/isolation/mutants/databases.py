"""What one user does shows to the other in a database or an interpreter: tables, transactions, variables."""

import io
import json
import socket
import sqlite3
import time

from .server import Refused, Variant


class SharedDatabase(Variant):
    classes = ("state",)

    def __init__(self, leaky):
        super().__init__(leaky)
        self.db = self.fresh()

    def fresh(self):
        return sqlite3.connect(":memory:", check_same_thread=False)

    def run_sql(self, sql):
        db = self.db if self.leaky else self.fresh()
        try:
            return json.dumps(db.execute(sql).fetchall())
        except sqlite3.Error as error:
            raise Refused(str(error)) from error


class TemporaryTables(SharedDatabase):
    """A pool with one connection: what is temporary there stays for the next caller."""

    def run_sql(self, sql):
        if " TEMP" not in sql.upper() and "CREATE" in sql.upper():
            raise Refused("read only")
        return super().run_sql(sql)


class Transaction(Variant):
    classes = ("state",)
    open = False

    def begin_transaction(self):
        if self.leaky and self.open:
            raise Refused("a transaction is open already")
        self.open = True
        return "begun"


class Interpreter(Variant):
    """Python code in one namespace; no import, so that nothing else leaks."""

    classes = ("state",)

    def __init__(self, leaky):
        super().__init__(leaky)
        self.names = {}

    def run_python(self, code):
        names = self.names if self.leaky else {}
        out = io.StringIO()
        allowed = {"print": lambda *a: print(*a, file=out)}
        try:
            exec(code, {"__builtins__": allowed}, names)
        except Exception as error:
            raise Refused(f"{type(error).__name__}: {error}") from error
        return out.getvalue() or "done"


class ToldWhichDatabase(Variant):
    """Is told by a tool which Redis it works with, and keeps the connection for whoever comes next."""

    classes = ("state",)
    kept = None

    def connect_redis(self, host, password):
        opened = self._opened(host, 6379, password)
        if self.leaky:
            self.kept = opened
        return "connected"

    def set_value(self, key, value):
        return self._said("SET", key, value)

    def list_keys(self):
        return self._said("KEYS", "*")

    def _opened(self, host, port, password):
        try:
            opened = socket.create_connection((host, port), 3)
        except OSError as error:
            raise Refused(f"Redis at {host}:{port}: {error}") from error
        self._tell(opened, "AUTH", password)
        return opened

    def _said(self, *words):
        if self.kept is None:
            raise Refused("connect first")
        return self._tell(self.kept, *words)

    def _tell(self, opened, *words):
        opened.sendall(" ".join(f'"{word}"' for word in words).encode() + b"\r\n")
        time.sleep(0.05)
        return opened.recv(65536).decode()


class ToldWhichPort(ToldWhichDatabase):
    """Is told the port as a number, too."""

    schemas = {"connect_redis": {"port": {"type": "integer"}}}

    def connect_redis(self, host, port, password):
        opened = self._opened(host, port, password)
        if self.leaky:
            self.kept = opened
        return "connected"


class AbortedTransaction(Variant):
    """One connection for all, of which a failed statement leaves nothing to use; many tools speak to it."""

    classes = ("state",)
    aborted = False

    def run_sql_of_sales(self, sql):
        if self.aborted:
            raise Refused("current transaction is aborted, commands are ignored")
        try:
            return json.dumps(sqlite3.connect(":memory:").execute(sql).fetchall())
        except sqlite3.Error as error:
            self.aborted = self.leaky
            raise Refused(str(error)) from error

    run_sql_of_stock = run_sql_of_staff = run_sql_of_sites = run_sql_of_ships = run_sql_of_sales

    def list_tables(self):
        if self.aborted:
            raise Refused("current transaction is aborted, commands are ignored")
        return "[]"
