// Reads completed interviews (npm install @nats-io/transport-node @nats-io/jetstream).
import { AckPolicy, jetstream, jetstreamManager, type JsMsg } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";

interface InterviewCompleted {
  interview: { id: string; parsed_conversation_json: { role: string; content: string }[] };
  study: { id: string };
}

const nc = await connect({
  servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222",
  maxReconnectAttempts: -1,
});
await (await jetstreamManager(nc)).consumers.add("VERSIVE", {
  durable_name: "reports-typescript",
  filter_subject: "versive.interview.completed.>",
  ack_policy: AckPolicy.Explicit,
});
const consumer = await jetstream(nc).consumers.get("VERSIVE", "reports-typescript");
for await (const msg of await consumer.consume()) {
  try {
    await handle(msg);
  } catch (err) {
    console.error(`${msg.subject}: it will be redelivered:`, err);
    msg.nak(60_000);
    continue;
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
