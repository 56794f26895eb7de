"""Real PostgreSQL servers and poolers on free loopback ports, in one temporary folder.

Shared by the driver matrix (this folder) and by the comparison (`benches/compare`).

    with Stage("matrix") as stage:
        primary, replicas = start_cluster(stage, replicas=1)
        pooler = start_pglagoon(stage, binary, servers=[primary, *replicas])

Whatever ends the `with` block (the end, an exception, Ctrl-C, SIGTERM) stops every process that was started and removes
the folder. Should this process be killed outright, the kernel ends its children (parent-death signal); only the folder stays.
PostgreSQL and PgBouncer refuse to run as root, so root starts them as the user `postgres`. Only the standard library is used.
"""

import contextlib
import glob
import os
import pwd
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

USER = "app"
PASSWORD = "secret"
DATABASE = "app"
START_SECONDS = 60


class Stage:
    """Owns the folder and the processes."""

    def __init__(self, name):
        self.name = name
        self.processes = []

    def __enter__(self):
        self.exits = contextlib.ExitStack()
        raise_open_files()
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, interrupted)
        self.folder = Path(tempfile.mkdtemp(prefix=f"pglagoon-{self.name}-"))
        self.exits.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.give_to_servers(self.folder)
        return self

    def __exit__(self, *_):
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, signal.SIG_IGN)
        for process, how in reversed(self.processes):
            end(process, how)
        self.exits.close()

    def give_to_servers(self, path):
        if os.geteuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(path, owner.pw_uid, owner.pw_gid)

    def write(self, name, text):
        path = self.folder / name
        path.write_text(text)
        self.give_to_servers(path)
        return path

    def run(self, *argv):
        """A short command of the servers' own user; its output is shown only if it fails."""
        done = subprocess.run([*drop_root(), *map(str, argv)], cwd=self.folder, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{argv[0]} failed: {done.stdout}{done.stderr}")
        return done.stdout

    def start(self, log, *argv, stop=signal.SIGTERM, death="KILL", as_root=False, env=None):
        """A long-running process. `stop` ends it in the end; `death` is what the kernel sends it if we die first."""
        drop = [] if as_root else drop_root()
        argv = [*(drop or ["setpriv"]), f"--pdeathsig={death}", "--", *map(str, argv)]
        with open(self.folder / log, "wb") as output:
            process = subprocess.Popen(argv, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                       start_new_session=True, env={**os.environ, **(env or {})})
        self.processes.append((process, stop))
        return process

    def stop(self, process):
        """Ends one process early."""
        (entry,) = [entry for entry in self.processes if entry[0] is process]
        self.processes.remove(entry)
        end(*entry)

    def log(self, name):
        return (self.folder / name).read_text(errors="replace")


@dataclass
class Server:
    """One running PostgreSQL server."""

    port: int
    folder: Path
    socket_folder: Path
    process: subprocess.Popen
    host: str = "127.0.0.1"

    @property
    def pid(self):
        return self.process.pid

    def sql(self, text, database="postgres"):
        """Runs SQL as the superuser, past every pooler; returns psql's unaligned output."""
        done = subprocess.run(
            [tool("psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", str(self.socket_folder), "-p", str(self.port),
             "-U", "postgres", "-d", database, "-c", text], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"SQL failed on port {self.port}: {done.stderr.strip()}")
        return done.stdout.strip()


@dataclass
class Pooler:
    """One running pooler."""

    name: str
    version: str
    port: int
    process: subprocess.Popen
    log: str
    http_port: int | None = None
    host: str = "127.0.0.1"

    @property
    def pid(self):
        return self.process.pid


def start_cluster(stage, replicas, settings=None, password_encryption="scram-sha-256"):
    """A primary with `replicas` streaming replicas, user `app` and its database; durability is switched off."""
    primary = start_primary(stage, settings or {}, password_encryption)
    followers = [start_replica(stage, primary, number) for number in range(1, replicas + 1)]
    wait_caught_up(primary, followers)
    return primary, followers


def start_primary(stage, settings, password_encryption):
    folder = stage.folder / "primary"
    stage.run(tool("initdb"), "-D", folder, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
    settings = {
        "listen_addresses": "127.0.0.1", "unix_socket_directories": str(stage.folder), "fsync": "off",
        "full_page_writes": "off", "wal_level": "replica", "hot_standby": "on", "max_wal_senders": "10",
        "max_connections": "200", "wal_keep_size": "1GB", "password_encryption": password_encryption,
        "timezone": "UTC", "log_timezone": "UTC", "lc_messages": "C", **settings}
    with open(folder / "postgresql.conf", "a") as file:
        file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
    (folder / "pg_hba.conf").write_text(
        "local all all trust\nlocal replication all trust\n"
        f"host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 {password_encryption}\n")
    primary = start_postgres(stage, folder)
    primary.sql(f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'")
    primary.sql(f"CREATE DATABASE {DATABASE} OWNER {USER}")
    return primary


def start_replica(stage, primary, number):
    folder = stage.folder / f"replica{number}"
    stage.run(tool("pg_basebackup"), "-h", stage.folder, "-p", primary.port, "-U", "postgres", "-D", folder,
              "-R", "-X", "stream", "-c", "fast", "--no-sync")
    return start_postgres(stage, folder)


def start_postgres(stage, folder):
    port = free_port()
    # SIGQUIT: the data is thrown away, so nobody waits for a checkpoint.
    process = stage.start(f"{folder.name}.log", tool("postgres"), "-D", folder, "-p", port, stop=signal.SIGQUIT, death="QUIT")
    server = Server(port, folder, stage.folder, process)
    wait_until(lambda: isready(server), f"PostgreSQL in {folder.name}", process, lambda: stage.log(f"{folder.name}.log"))
    return server


def isready(server):
    argv = [tool("pg_isready"), "-q", "-h", str(server.socket_folder), "-p", str(server.port)]
    return subprocess.run(argv).returncode == 0


def wait_caught_up(primary, replicas):
    """Returns when every replica has replayed what the primary had written at the time of the call."""
    position = primary.sql("SELECT pg_current_wal_lsn()")
    for replica in replicas:
        wait_until(lambda: replica.sql(f"SELECT pg_last_wal_replay_lsn() >= '{position}'") == "t",
                   f"replica on port {replica.port} catches up", replica.process)


@dataclass(frozen=True)
class Certificate:
    """Paths of a self-signed certificate and its key, PEM."""

    chain: Path
    key: Path


def make_certificate(stage):
    certificate = Certificate(stage.folder / "pooler.crt", stage.folder / "pooler.key")
    stage.run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
              "-subj", "/CN=localhost", "-keyout", certificate.key, "-out", certificate.chain)
    return certificate


def start_pgbouncer(stage, primary, pool_size, *, name="pgbouncer", auth="scram-sha-256", mode="transaction", databases=(DATABASE,),
                    users=(USER,), max_clients=10000, certificate=None):
    """Debian's PgBouncer in front of the primary. All `databases` are one there, all `users` roles with one password."""
    binary, version, port = tool("pgbouncer"), pgbouncer_version(), free_port()
    # By SCRAM: the server's own verifier, as from its auth_query. From a password PgBouncer derives the keys at every login.
    secret = primary.sql(f"SELECT rolpassword FROM pg_authid WHERE rolname = '{USER}'") if auth == "scram-sha-256" else PASSWORD
    userlist = stage.write(f"{name}.users", "".join(f'"{user}" "{secret}"\n' for user in users))
    sections = "\n".join(f"{name} = host=127.0.0.1 port={primary.port} dbname={DATABASE}" for name in databases)
    prepared = "max_prepared_statements = 100\n" if version >= (1, 21) else ""
    tls = f"client_tls_sslmode = allow\nclient_tls_cert_file = {certificate.chain}\nclient_tls_key_file = {certificate.key}\n" \
        if certificate else ""
    config = stage.write(f"{name}.ini", f"""[databases]
{sections}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = {auth}
auth_file = {userlist}
pool_mode = {mode}
default_pool_size = {pool_size}
max_client_conn = {max_clients}
ignore_startup_parameters = extra_float_digits
log_connections = 0
log_disconnections = 0
admin_users = {USER}
{prepared}{tls}""")
    process = stage.start(f"{name}.log", binary, config)
    pooler = Pooler(name, ".".join(map(str, version)), port, process, f"{name}.log")
    wait_until(lambda: answers(pooler), "PgBouncer", process, lambda: stage.log(pooler.log))
    return pooler


def pgbouncer_version():
    text = subprocess.run([tool("pgbouncer"), "--version"], capture_output=True, text=True).stdout
    return tuple(int(part) for part in re.search(r"PgBouncer (\d+)\.(\d+)", text).groups())


def start_pglagoon(stage, binary, servers, *, name="pglagoon", mode="transaction", pool_size=20, workers=1,
                   reads="replicas", consistency="sticky", auth="scram-sha-256", databases=(DATABASE,), users=(USER,),
                   max_clients=10000, prepared_statements=200, unnamed="keep", certificate=None, env=None):
    """pglagoon in front of all `servers`; it finds out by itself which of them is the primary. All `databases` are one there,
    all `users` roles with one password."""
    port, http_port = free_port(), free_port()
    addresses = ", ".join(f'"127.0.0.1:{server.port}"' for server in servers)
    tls = f'tls = "prefer"\ntls_cert = "{certificate.chain}"\ntls_key = "{certificate.key}"\n' if certificate else ""
    logins = "\n".join(f'[users.{user}]\npassword = "{PASSWORD}"\n' for user in users)
    sections = "\n".join(f'[databases.{database}]\ndatabase = "{DATABASE}"\nservers = [{addresses}]\n' for database in databases)
    config = stage.write(f"{name}.toml", f"""[listen]
address = "127.0.0.1:{port}"
max_clients = {max_clients}
workers = {workers}
{tls}
[http]
address = "127.0.0.1:{http_port}"

[auth]
method = "{auth}"

{logins}
[admin]
users = ["{USER}"]

[pool]
mode = "{mode}"
size = {pool_size}
checkout_timeout = "10s"
prepared_statements = {prepared_statements}
unnamed_statements = "{unnamed}"

[routing]
reads = "{reads}"
consistency = "{consistency}"
sticky_window = "2s"
max_lag = "10s"

{sections}""")
    binary = Path(binary).resolve()
    version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    process = stage.start(f"{name}.log", binary, "serve", "--config", config, as_root=True, env=env)
    pooler = Pooler(name, version.split()[-1], port, process, f"{name}.log", http_port)
    wait_until(lambda: answers(pooler) and ready(pooler), name, process, lambda: stage.log(pooler.log))
    return pooler


def answers(pooler):
    """True once the pooler accepts clients."""
    with contextlib.suppress(OSError), socket.create_connection((pooler.host, pooler.port), timeout=1):
        return True
    return False


def ready(pooler):
    """True once `/ready` says that every server was found and asked."""
    try:
        with urllib.request.urlopen(f"http://{pooler.host}:{pooler.http_port}/ready", timeout=1) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def wait_until(condition, what, process, log=lambda: ""):
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if process.poll() is not None:
            raise RuntimeError(f"{what}: ended with {process.returncode}\n{log()}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what}: not there after {START_SECONDS} s\n{log()}")
        time.sleep(0.05)


def end(process, how):
    if process.poll() is None:
        process.send_signal(how)
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port():
    """A free port below the range from which the kernel takes ports of outgoing connections, so that it stays free."""
    for _ in range(1000):
        port = random.randrange(15000, 32000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port between 15000 and 32000")


def tool(name):
    """A program of the newest installed PostgreSQL, else from PATH."""
    installed = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"), key=lambda path: int(path.split("/")[4]))
    found = installed[-1] if installed else shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if not found:
        raise RuntimeError(f"{name} is not installed")
    return found


def drop_root():
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]


def raise_open_files():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def interrupted(*_):
    raise KeyboardInterrupt
