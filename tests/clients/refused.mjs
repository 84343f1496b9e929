// Are a refusal and the order behind it answered, as Node's agent sees it?
import { Agent, request } from "node:http";

const { GATEWAY, TOKEN, ORDER } = process.env;
const ROUNDS = 100;
const json = { "Content-Type": "application/json" };
const bearer = { Authorization: `Bearer ${TOKEN}` };
const path = "/package/orderPackage";
const REFUSED = [
  [401, path, json],
  [403, path, { ...json, ...bearer, Origin: "http://evil.example" }],
  [404, "/package/unlisted", { ...json, ...bearer }],
  [415, path, { "Content-Type": "text/plain", ...bearer }],
];
const SIZES = [2, 9_000, 100_000, 1_000_000, 3_000_000];

const agent = new Agent({ keepAlive: true, maxSockets: 1 });
const post = (path, headers, body) =>
  new Promise((resolve) => {
    const lost = () => resolve(undefined);
    const sent = request(GATEWAY + path, { method: "POST", agent, headers, timeout: 10_000 }, (answer) => {
      answer.resume().on("end", () => resolve(answer.statusCode)).on("error", lost);
    });
    sent.on("error", lost).on("timeout", () => sent.destroy());
    sent.end(body);
  });

let [refusals, orders] = [0, 0];
for (let round = 0; round < ROUNDS; round++) {
  const [status, path, headers] = REFUSED[round % REFUSED.length];
  refusals += (await post(path, headers, " ".repeat(SIZES[round % SIZES.length]))) !== status;
  orders += (await post("/package/orderPackage", { ...json, ...bearer }, ORDER)) !== 200;
}
agent.destroy();
console.log(`of ${ROUNDS}, refusals lost: ${refusals}, orders lost: ${orders}`);
process.exitCode = refusals + orders > 0 ? 1 : 0;
