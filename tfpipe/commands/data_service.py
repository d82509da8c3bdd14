"""`tfpipe data-service`: processes on this machine that parse and augment for `tfpipe train --data-service`."""

from __future__ import annotations

import argparse

from tfpipe.cli.examples import add_examples

HELP = "start or stop processes that parse and augment for `tfpipe train --data-service`"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the actions `start` and `stop`."""
    from tfpipe.data.service_processes import HOST, PORT, WORKERS

    add_examples(parser, "tfpipe data-service start --workers 2", "tfpipe data-service stop")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    start = actions.add_parser(
        "start",
        help="start the processes and print their addresses",
        description="Starts processes of tf.data service, each a dispatcher with one worker, and prints their "
        "addresses, so that this works: tfpipe train ... --data-service $(tfpipe data-service start)",
        epilog="The processes listen on all addresses of this machine and do not ask who calls, so use them only in "
        "a trusted network. They must find the dataset folder under the name that training uses.",
    )
    start.add_argument(
        "--workers", type=int, default=WORKERS, metavar="N", help="number of processes (default %(default)s)"
    )
    start.add_argument(
        "--host", default=HOST, metavar="NAME", help="name of this machine, as training knows it (default %(default)s)"
    )
    stop = actions.add_parser(
        "stop", help="end the processes", description="Ends the processes that `start` has started."
    )
    for action in (start, stop):
        action.add_argument(
            "--port",
            type=int,
            default=PORT,
            metavar="PORT",
            help="port of the first process; the others take the ports after it (default %(default)s)",
        )


def run(args: argparse.Namespace) -> int:
    """Starts the processes and prints their addresses with commas between them, or ends them."""
    from tfpipe.data import service_processes

    if args.action == "start":
        print(",".join(service_processes.start(workers=args.workers, port=args.port, host=args.host)))
    else:
        service_processes.stop(port=args.port)
    return 0
