"""Forked test processes: real processes that can be killed, without a second import of torch."""

import multiprocessing
import os
import socket


def forked(function, *arguments, **environment):
    """Start ``function(*arguments)`` in a forked process with more environment variables; return the process."""

    def work():
        os.environ.update(environment)
        function(*arguments)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def exit_codes(*processes):
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def run_two(function, *arguments):
    """Run a function in two processes with the variables that torchrun sets; return their exit codes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    processes = [forked(function, *arguments, RANK=rank, LOCAL_RANK=rank, **group) for rank in "01"]
    return exit_codes(*processes)
