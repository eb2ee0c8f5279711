"""python -m backend serve | front | worker | bulk | export | fit | models | learn | order | check | health | …"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from pydantic import ValidationError

from backend import logs
from backend.bulk import arguments as bulk
from backend.errors import BackendError, BadRequest
from backend.export import arguments as export
from backend.settings import Settings
from backend.system import memory, threads
from backend.system.imports import uncollected
from backend.tuning import arguments as tuning


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m backend", description="Perceive Anything for Label Studio.")
    commands = top.add_subparsers(dest="command", required=True)
    model = argparse.ArgumentParser(add_help=False)
    model.add_argument("--model", help="a bundled checkpoint, PAM-1.5B, PAM-3B, a folder, or a hub id")
    model.add_argument("--sam2", dest="sam2_checkpoint", help="SAM 2 weights, where the model's folder has none")
    model.add_argument("--sam2-config", help="the Hydra config of those weights")
    model.add_argument("--device", help="auto, cpu, cuda, cuda:N, mps")
    model.add_argument("--dtype", help="auto, float32, bfloat16, float16")
    model.add_argument("--quantize", help="none; int8: the language model's layers in eight bits, on a CPU")
    log = argparse.ArgumentParser(add_help=False)
    log.add_argument("--log-level", help="DEBUG, INFO, WARNING, ERROR")
    log.add_argument("--log-format", help="text, json (one object a line)")
    working = argparse.ArgumentParser(add_help=False)
    working.add_argument(
        "--compile", action="store_true", default=None, help="compile what tracks videos too, for GPUs"
    )
    address = argparse.ArgumentParser(add_help=False)
    address.add_argument("--host", help="address to listen on (127.0.0.1)")
    address.add_argument("--port", type=int, help="port to listen on (9090)")
    address.add_argument(
        "--allow-open", action="store_true", default=None, help="listen beyond this machine without a password"
    )
    serve = commands.add_parser(
        "serve", parents=[model, working, address, log], help="front, queue and workers of this machine in one command"
    )
    serve.add_argument("--workers", help="how many workers (1); auto: one for each GPU")
    worker = commands.add_parser("worker", parents=[model, working, log], help="one worker alone")
    worker.add_argument("--name", help=argparse.SUPPRESS)
    worker.add_argument(
        "--drain",
        nargs="*",
        metavar="NAME",
        help="start none: these workers (or all) finish their jobs, take nothing new, and end",
    )
    commands.add_parser("front", parents=[address, log], help="the front alone")
    bulk.add_arguments(
        commands.add_parser("bulk", parents=[model, working, log], help="pre-label a whole project, a file or a folder")
    )
    export.add_arguments(commands.add_parser("export", help="what was labelled, in the formats of training tools"))
    tuning.add_fit(commands.add_parser("fit", parents=[model, log], help="learn from a project's reviewed work"))
    commands.add_parser("models", help="the versions that were learned, with their figures")
    tuning.add_promote(commands.add_parser("promote", help="let a version answer its project"))
    tuning.add_rollback(commands.add_parser("rollback", help="let the version before answer, or the base"))
    check = commands.add_parser("check", parents=[model, log], help="what works, and what to do about what does not")
    check.add_argument("--settings", action="store_true", help="list all settings with their values and meanings")
    health = commands.add_parser("health", parents=[address], help="exit code 0 if a part of this machine lives")
    health.add_argument("part", choices=["front", "worker"])
    webhooks = commands.add_parser("webhooks", help="give Label Studio's webhooks the token that a password asks for")
    webhooks.add_argument("url", help="the backend's address as Label Studio has it, e.g. http://localhost:9090")
    learn = commands.add_parser("learn", help="learn what a project's labels look like from what people labelled there")
    learn.add_argument("--project", type=int, help="its number in Label Studio; without: what has been learned so far")
    learn.add_argument("--forget", action="store_true", help="drop what was learned of it")
    order = commands.add_parser("order", help="have Label Studio give annotators the doubtful tasks first")
    order.add_argument("--project", type=int, required=True, help="its number in Label Studio")
    order.add_argument("--regions", nargs="+", metavar="WHERE", help="of tasks without a prediction, as for bulk")
    order.add_argument("--texts", help="of tasks without a prediction, as for bulk")
    order.add_argument("--off", action="store_true", help="give them in sequence again")
    commands.add_parser("review", help="what people kept of the answers: masks, labels, texts")
    return top


def main(argv: list[str] | None = None) -> int:
    given = parser().parse_args(argv)
    # before there are threads, and torch
    memory.few_heaps()
    memory.few_kernels()
    threads.spin_shortly()
    options = {key: value for key, value in vars(given).items() if key in Settings.model_fields and value is not None}
    try:
        settings = Settings(**options)
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_input=False):
            print(f"setting {_setting(fault['loc'])}: {fault['msg'].removeprefix('Value error, ')}", file=sys.stderr)
        return 2
    # `serve` has said it for its workers
    for line in Settings.unknown(os.environ) if "PALLAS_PARENT" not in os.environ else ():
        print(f"setting {line}", file=sys.stderr)
    logs.set_up(settings.log_level, settings.log_format)
    try:
        return _run(given, settings)
    except BackendError as error:
        print(f"{error.type}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _setting(where: tuple[int | str, ...]) -> str:
    """The variable that a fault is about."""
    name = str(where[0]) if where else ""
    return Settings.variable(name.removeprefix("PALLAS_").lower()) if name else "(together)"


def _run(given: argparse.Namespace, settings: Settings) -> int:
    command = given.command

    def say(line: str) -> None:
        print(line, flush=True)

    if command == "check":
        from rich.console import Console

        from backend.run.check import check

        return check(settings, Console(), given.settings)
    if command == "health":
        from backend.run import health

        if fault := {"front": health.front, "worker": health.worker}[given.part](settings):
            print(fault, file=sys.stderr)
        return int(bool(fault))
    if command == "webhooks":
        from backend.front.webhooks import give_token

        say(give_token(settings, given.url))
        return 0
    if command == "review":
        return _review(settings)
    if command == "learn":
        return _learn(settings, given.project, given.forget)
    if command == "order":
        from rich.console import Console

        from backend.bulk.order import order

        return order(settings, given, Console())
    if command == "worker" and given.drain is not None:
        return _drain(settings, given.drain, say)
    if command == "worker":
        return _worker(settings, given.name)
    if command == "bulk":
        from rich.console import Console

        from backend.bulk.cli import run

        return run(settings, given, Console())
    if command == "export":
        from rich.console import Console

        from backend.export.run import run as run_export

        return run_export(settings, given, Console())
    if command in ("fit", "models", "promote", "rollback"):
        return _versions(settings, given)
    with uncollected():
        from backend.run.serve import run_front, serve

    return serve(settings, say) if command == "serve" else run_front(settings, say)


def _review(settings: Settings) -> int:
    import redis
    from rich.console import Console

    from backend.front.review import show
    from backend.queueing.connection import connect, queue_down
    from backend.run.embedded_redis import running

    with running(settings):
        try:
            return show(connect(settings), Console())
        except redis.RedisError as error:
            raise queue_down(error) from None


def _versions(settings: Settings, given: argparse.Namespace) -> int:
    from rich.console import Console

    from backend.tuning.commands import run
    from model.errors import ModelError

    try:
        return run(settings, given, Console())
    except ModelError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _learn(settings: Settings, project: int | None, dropped: bool) -> int:
    import redis
    from rich.console import Console

    from backend.front.learn import forget, learn, show
    from backend.learning.memory import LabelMemory
    from backend.queueing.connection import connect, queue_down
    from backend.run.embedded_redis import running

    if dropped and project is None:
        raise BadRequest("give --project with --forget: the number of the one whose memory is to be dropped")
    with running(settings):
        try:
            client = connect(settings)
            if project is None:
                return show(LabelMemory(client, settings), Console())
            return forget(settings, client, project, Console()) if dropped else learn(settings, project, Console())
        except redis.RedisError as error:
            raise queue_down(error) from None


def _drain(settings: Settings, names: list[str], say: Callable[[str], None]) -> int:
    import redis

    from backend.queueing.connection import connect, queue_down
    from backend.queueing.drain import drain

    try:
        drain(connect(settings), names, settings.job_timeout_s + settings.heartbeat_ttl_s, say)
    except redis.RedisError as error:
        raise queue_down(error) from None
    return 0


def _worker(settings: Settings, name: str | None) -> int:
    with uncollected():
        import redis

        from backend.queueing.connection import queue_down
        from backend.run.embedded_redis import running
        from backend.worker.worker import run_worker
        from model.errors import ModelError

    try:
        with running(settings):
            return run_worker(settings, name)
    except ModelError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except redis.RedisError as error:
        raise queue_down(error) from None


if __name__ == "__main__":
    sys.exit(main())
