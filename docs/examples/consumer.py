"""Keeps completed interviews in SQLite, each exactly once (pip install nats-py[nkeys])."""

import asyncio
import json
import logging
import os
import signal
import sqlite3
from urllib.parse import unquote

import nats
from nats.errors import ConnectionClosedError, TimeoutError
from nats.js.errors import NotFoundError


async def main():
    db = sqlite3.connect("interviews.db")
    db.execute("create table if not exists processed (svix_id text primary key)")
    db.execute("create table if not exists interviews (svix_id text, study text, interview text, turns int)")

    nc = await nats.connect(
        os.environ.get("NATS_URL", "nats://127.0.0.1:4222"),
        nkeys_seed=os.environ.get("NATS_NKEY"),  # a file
        max_reconnect_attempts=-1,
        connect_timeout=10,
    )
    subscription = await nc.jetstream().pull_subscribe(
        "versive.interview.completed.>", durable="reports-python", stream="VERSIVE"
    )

    stopping = asyncio.Event()
    for number in signal.SIGINT, signal.SIGTERM:
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    stop = asyncio.create_task(stopping.wait())

    while not stopping.is_set():
        waiting = asyncio.create_task(next_message(subscription))
        await asyncio.wait({waiting, stop}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
            await asyncio.wait({waiting})
            break
        msg = waiting.result()
        try:
            with db:  # one transaction
                handle(db, msg)
            await msg.ack_sync()
        except Exception:
            logging.exception("%s: it will be redelivered", msg.subject)
            await msg.nak(delay=60)
    await nc.close()


async def next_message(subscription):
    """Waits for a message. Raises an error if no message can arrive any more.

    One at a time: the ack_wait of a message begins when it is fetched.
    """
    while True:
        try:
            [msg] = await subscription.fetch(1, timeout=30)
            return msg
        except TimeoutError:
            pass
        except Exception as err:
            logging.warning("nothing is delivered: %r", err)
        try:
            await subscription.consumer_info()
        except (NotFoundError, ConnectionClosedError):
            raise
        except Exception as err:
            logging.warning("the broker does not answer: %r", err)
        await asyncio.sleep(1)


def handle(db, msg):
    # The last token of the subject is the svix-id, of an event and of its tombstone.
    svix_id = unquote(msg.subject.rsplit(".", 1)[1])
    new = db.execute("insert into processed values (?) on conflict do nothing", (svix_id,)).rowcount
    if "Ingress-Erased" in msg.headers:
        db.execute("delete from interviews where svix_id = ?", (svix_id,))
        print("erased", svix_id, flush=True)
        return
    if not new:
        return  # processed before, or erased
    if msg.headers["ce-dataschema"] != "urn:versive-ingress:interview.completed:1":
        raise ValueError("unknown schema")
    event = json.loads(msg.data)
    study, interview = event["study"]["id"], event["interview"]["id"]
    turns = len(event["interview"]["parsed_conversation_json"])
    db.execute("insert into interviews values (?, ?, ?, ?)", (svix_id, study, interview, turns))
    print("completed", svix_id, study, interview, turns, flush=True)


asyncio.run(main())
