// Reads completed interviews (npm install @nats-io/transport-node @nats-io/jetstream).
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import {
  AckPolicy,
  type ConsumerMessages,
  jetstream,
  JetStreamApiError,
  jetstreamManager,
  type JsMsg,
} from "@nats-io/jetstream";
import { connect, nkeyAuthenticator } from "@nats-io/transport-node";

interface InterviewCompleted {
  interview: { id: string; parsed_conversation_json: { role: string; content: string }[] };
  study: { id: string };
}

const seed = process.env.NATS_NKEY; // a file
const nc = await connect({
  servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222",
  authenticator: seed ? nkeyAuthenticator(new TextEncoder().encode(readFileSync(seed, "utf8").trim())) : undefined,
  maxReconnectAttempts: -1,
});
// This fails if the consumer exists with another filter, with which it would skip events.
await (await jetstreamManager(nc)).consumers.add("VERSIVE", {
  durable_name: "reports-typescript",
  filter_subject: "versive.interview.completed.>",
  ack_policy: AckPolicy.Explicit,
});
const consumer = await jetstream(nc).consumers.get("VERSIVE", "reports-typescript");

let stopping = false;
let messages: ConsumerMessages | undefined;
for (const signal of ["SIGINT", "SIGTERM"]) {
  process.once(signal, () => {
    stopping = true;
    messages?.stop();
  });
}
while (!stopping) {
  let received = false;
  try {
    // One at a time: the ack_wait of a message begins when it is fetched.
    messages = await consumer.fetch({ max_messages: 1 }); // waits for up to 30 s
    for await (const msg of messages) {
      received = true;
      await work(msg);
    }
  } catch (err) {
    console.error("nothing is delivered:", err);
  }
  if (!received && !stopping) {
    await check();
  }
}
await nc.close();

// check fails if no message can arrive any more.
async function check() {
  try {
    await consumer.info();
  } catch (err) {
    if (nc.isClosed() || (err instanceof JetStreamApiError && err.status === 404)) { // consumer or stream not found
      throw err;
    }
    console.error("the broker does not answer:", err);
  }
  await sleep(1000);
}

async function work(msg: JsMsg) {
  try {
    await handle(msg);
  } catch (err) {
    console.error(`${msg.subject}: it will be redelivered:`, err);
    msg.nak(60_000);
    return;
  }
  try {
    await msg.ackAck();
  } catch (err) {
    console.error(`${msg.subject}: not confirmed, so it may be redelivered:`, err);
  }
}

async function handle(msg: JsMsg) {
  // The last token of the subject is the svix-id, of an event and of its tombstone.
  const id = decodeURIComponent(msg.subject.slice(msg.subject.lastIndexOf(".") + 1));
  if (msg.headers?.has("Ingress-Erased")) {
    // In one transaction: keep the id, and delete what you made of the event.
    console.log("erased", id);
    return;
  }
  const urn = msg.headers?.get("ce-dataschema");
  if (urn !== "urn:versive-ingress:interview.completed:1") {
    throw new Error(`unknown schema ${urn}`);
  }
  const event = msg.json<InterviewCompleted>();
  // In one transaction: keep the id, and do the work; if the id was there already, do nothing.
  console.log("completed", id, event.study.id, event.interview.id, event.interview.parsed_conversation_json.length);
}
