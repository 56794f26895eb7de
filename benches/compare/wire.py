"""A client of PostgreSQL's protocol that costs little: thousands of them stand in one process.

Blocking, with a time limit on every wait; SCRAM-SHA-256 and trust; TLS without a look at the certificate.
"""

import base64
import functools
import hashlib
import hmac
import os
import select
import socket
import ssl
import struct
import time
from collections import deque

from cluster import DATABASE, PASSWORD, USER

PATIENCE_SECONDS = 60
READY_IDLE = b"Z\0\0\0\5I"
SSL_REQUEST = struct.pack("!II", 8, 80877103)


class ServerError(Exception):
    """An ErrorResponse."""


class Connection:
    """Logged in when it is made. `requests` is for `load`: what it sends, each in turn."""

    def __init__(self, port, user=USER, database=DATABASE, tls="plain"):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.unread = b""
        self.requests = (query("SELECT 1"),)
        self.sent = 0
        try:
            if tls == "tls":
                self.encrypt()
            self.log_in(user, database)
        except BaseException:
            self.socket.close()
            raise

    def encrypt(self):
        self.socket.sendall(SSL_REQUEST)
        if self.exactly(1) != b"S":
            raise RuntimeError("no TLS there")
        self.socket = tls_context().wrap_socket(self.socket)

    def log_in(self, user, database):
        startup = b"".join(word.encode() + b"\0" for word in ("user", user, "database", database)) + b"\0"
        self.socket.sendall(struct.pack("!II", len(startup) + 8, 196608) + startup)
        while True:
            tag, body = self.message()
            if tag == b"Z":
                return
            if tag == b"R":
                self.authenticate(struct.unpack_from("!I", body)[0], body[4:])

    def authenticate(self, kind, body):
        """SCRAM-SHA-256, RFC 5802: SASL (10), Continue (11), Final (12); 0 is Ok."""
        if kind == 10:
            self.first = "n=,r=" + base64.b64encode(os.urandom(18)).decode()
            first = f"n,,{self.first}".encode()
            self.socket.sendall(message(b"p", b"SCRAM-SHA-256\0" + struct.pack("!I", len(first)) + first))
        elif kind == 11:
            self.socket.sendall(message(b"p", proof(self.first, body.decode())))
        elif kind not in (0, 12):
            raise RuntimeError(f"only SCRAM and trust are spoken here, not authentication {kind}")

    def ask(self, request):
        """Sends one or more requests that end with one ReadyForQuery, and reads up to there."""
        self.socket.sendall(request)
        while self.message()[0] != b"Z":
            pass

    def message(self):
        head = self.exactly(5)
        body = self.exactly(struct.unpack("!I", head[1:])[0] - 4)
        if head[:1] == b"E":
            raise ServerError(body.replace(b"\0", b" ").decode(errors="replace"))
        return head[:1], body

    def exactly(self, count):
        while len(self.unread) < count:
            received = self.socket.recv(65536)
            if not received:
                raise EOFError("the connection was closed")
            self.unread += received
        taken, self.unread = self.unread[:count], self.unread[count:]
        return taken

    def close(self):
        try:
            self.socket.sendall(message(b"X", b""))
        except OSError:
            pass  # the other side was first
        self.socket.close()


@functools.cache
def tls_context():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@functools.cache
def salted_password(salt, iterations):
    """The same for all logins of the user, if the server does not change its salt."""
    return hashlib.pbkdf2_hmac("sha256", PASSWORD.encode(), base64.b64decode(salt), iterations)


def proof(client_first, server_first):
    nonce, salt, iterations = (part[2:] for part in server_first.split(","))
    final = f"c=biws,r={nonce}"
    client_key = hmac.digest(salted_password(salt, int(iterations)), b"Client Key", "sha256")
    signature = hmac.digest(hashlib.sha256(client_key).digest(), f"{client_first},{server_first},{final}".encode(), "sha256")
    proven = bytes(one ^ other for one, other in zip(client_key, signature))
    return f"{final},p={base64.b64encode(proven).decode()}".encode()


def message(tag, body):
    return tag + struct.pack("!I", len(body) + 4) + body


def query(text):
    return message(b"Q", text.encode() + b"\0")


SYNC = message(b"S", b"")


def prepare(name, text):
    return message(b"P", name.encode() + b"\0" + text.encode() + b"\0\0\0") + SYNC


def execute(name):
    """Of a statement without parameters."""
    return message(b"B", b"\0" + name.encode() + b"\0" + bytes(6)) + message(b"E", bytes(5)) + SYNC


# Much data ------------------------------------------------------------------------------------------------------------------

def receive(connection, text, size):
    """The answer to a query, which must have at least `size` bytes; nothing is kept of it."""
    connection.socket.sendall(query(text))
    buffer, tail, received = bytearray(1 << 20), b"", 0
    while not tail.endswith(READY_IDLE):
        count = connection.socket.recv_into(buffer)
        if not count:
            raise EOFError("the connection was closed")
        received += count
        tail = (tail + buffer[max(0, count - len(READY_IDLE)):count])[-len(READY_IDLE):]
    if received < size:
        raise ServerError(f"{received} bytes instead of {size}")


def send_copy(connection, text, size):
    """COPY FROM STDIN of `size` bytes, in rows of 1,000."""
    connection.socket.sendall(query(text))
    while connection.message()[0] != b"G":
        pass
    rows = 1000
    chunk = message(b"d", b"x" * 999 + b"\n") * rows
    for _ in range(size // (rows * 1000)):
        connection.socket.sendall(chunk)
    connection.ask(message(b"c", b""))


# Load -----------------------------------------------------------------------------------------------------------------------

def load(connections, active, seconds):
    """Keeps `active` queries under way, each on the connection that has been silent for longest, so that all of them have their
    turn. Returns the latencies in seconds."""
    silent, begun, latencies = deque(connections), {}, []
    poll = select.epoll()
    by_number = {}

    def begin():
        connection = silent.popleft()
        number = connection.socket.fileno()
        if number not in by_number:
            by_number[number] = connection
            poll.register(number, select.EPOLLIN)
        begun[number] = time.perf_counter()
        connection.socket.send(connection.requests[connection.sent % len(connection.requests)])
        connection.sent += 1

    for _ in range(min(active, len(connections))):
        begin()
    end = time.perf_counter() + seconds
    with poll:
        while begun:
            ready = poll.poll(PATIENCE_SECONDS)
            if not ready:
                raise TimeoutError(f"no answer for {PATIENCE_SECONDS} s")
            for number, _ in ready:
                connection = by_number[number]
                if not answered(connection):
                    continue
                now = time.perf_counter()
                latencies.append(now - begun.pop(number))
                silent.append(connection)
                if now < end:
                    begin()
    return latencies


def answered(connection):
    """Reads what is there: true once the answer is whole."""
    received = connection.socket.recv(65536)
    if not received:
        raise EOFError("the connection was closed")
    if received[:1] == b"E":
        raise ServerError(received.replace(b"\0", b" ").decode(errors="replace"))
    return received.endswith(READY_IDLE)
