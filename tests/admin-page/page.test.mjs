// The admin page in a real browser, in front of real gateways: run by .ci/admin-page.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { chromium } from "playwright-core";

const BINARY = process.env.LINKSFIELD_GATEWAY;
const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const SCREENSHOT = process.env.SCREENSHOT;
const TOKEN = "admin-token-0123456789";
const ORDER = JSON.stringify({
  device_id: "89860012018111220455", global_order: "0", is_open: "0", order_period: "1", package_code: "PACKAGE20180428000007",
  package_name: "30m", package_type: "2", pay_amount: "0", pay_rst: "2", test_flow: "0", test_flow_flag: "0",
});
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const QUIET = ["no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking", "disable-component-update", "disable-sync"];

let browser, demo, guarded, folder;

before(async () => {
  folder = mkdtempSync(join(tmpdir(), "admin-page-"));
  [demo, guarded, browser] = await Promise.all([
    startDemo(),
    startGuarded(),
    chromium.launch({ executablePath: CHROMIUM, args: QUIET.map((flag) => `--${flag}`) }),
  ]);
});

after(async () => {
  await browser?.close();
  await Promise.all([demo, guarded].map((gateway) => gateway?.stop()));
  rmSync(folder, { recursive: true });
});

// ---- gateways

/** Runs the binary until it has written what `find` looks for. */
async function start(args, stream, find) {
  const process_ = spawn(BINARY, args, { stdio: ["ignore", "pipe", "pipe"] });
  const exit = once(process_, "exit");
  process_[stream === "stdout" ? "stderr" : "stdout"].resume();
  let text = "";
  const found = await new Promise((resolve, reject) => {
    process_[stream].on("data", (chunk) => {
      text += chunk;
      const found = find(text);
      if (found) resolve(found);
    });
    exit.then(() => reject(new Error(`it ended:\n${text}`)));
  });
  const stop = async () => {
    process_.kill();
    await exit;
  };
  return { ...found, stop };
}

function startDemo() {
  return start(["demo", "--listen", "127.0.0.1:0"], "stdout", (text) => {
    const of = (pattern) => text.match(pattern)?.[1];
    if (!text.includes("Ctrl-C")) return undefined;
    return {
      gateway: of(/A gateway on (\S+),/),
      admin: of(/(\S+)\/metrics/),
      vendor: of(/(\S+)\/_simulator/),
    };
  });
}

/** One with a token, a tenant whose access code is no HTML, and no Linksfield behind it. */
function startGuarded() {
  const file = (name, text) => {
    writeFileSync(join(folder, name), text);
    return JSON.stringify(join(folder, name));
  };
  const config = `
    [server]
    listen = "127.0.0.1:0"
    admin_listen = "127.0.0.1:0"
    admin_token_file = ${file("token", TOKEN)}
    [log]
    format = "json"
    [upstream]
    base_url = "http://127.0.0.1:9"
    [tenants.acme]
    access_code = "<img src=x onerror=alert(1)>"
    secret_file = ${file("secret", "secret")}
    [routes."/package/queryOrder"]
    kind = "query"
    pages = true
  `;
  file("gateway.toml", config);
  return start(["serve", "--config", join(folder, "gateway.toml")], "stderr", (text) => {
    const listening = text.split("\n").filter((line) => line.includes('"listening"'));
    const addresses = Object.fromEntries(
      listening.map((line) => JSON.parse(line)).map(({ listener, address }) => [listener, `http://${address}`]),
    );
    return addresses.data && addresses.admin && { gateway: addresses.data, admin: addresses.admin };
  });
}

async function ask(gateway, body, path = "/package/queryOrder") {
  const headers = { "Content-Type": "application/json" };
  const answer = await fetch(gateway.gateway + path, { method: "POST", headers, body });
  await answer.text();
  return answer;
}

async function makeTraffic(gateway, number) {
  for (let index = 0; index < number; index += 1) {
    await ask(gateway, JSON.stringify({ page_no: 1 + (index % 3), page_size: 2 }));
  }
  await ask(gateway, '{"page_no": 1, "page_no": 2}');
}

// ---- pages

/** Opens the page; what goes wrong in it, but for what is expected, fails the test. */
async function open(t, gateway, { expected = () => false, clock = false, ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(10_000);
  const wrong = [];
  page.on("console", (message) => {
    const isWrong = ["error", "warning"].includes(message.type()) && !expected(message.text());
    if (isWrong) wrong.push(message.text());
  });
  page.on("pageerror", (error) => wrong.push(String(error)));
  page.on("request", (request) => {
    if (new URL(request.url()).origin !== gateway.admin) wrong.push(`a request to ${request.url()}`);
  });
  t.after(async () => {
    await context.close();
    assert.deepEqual(wrong, []);
  });
  if (clock) await page.clock.install(); // time passes when the test says so
  await page.goto(gateway.admin);
  return page;
}

const figure = (page, name) => page.locator(`[data-chart=${name}]`);

// ---- tests

test("the essentials are there without JavaScript", async (t) => {
  await makeTraffic(demo, 6);
  const page = await open(t, demo, { javaScriptEnabled: false });
  for (const [heading, text] of [
    ["This process", "ready"],
    ["Linksfield", "breaker closed"],
    ["Budget of the day", "of 5,000"],
    ["Queries from memory", "%"],
    ["Configuration", "log level"],
  ]) {
    const card = page.locator("article", { has: page.getByRole("heading", { name: heading, exact: true }) });
    assert.match(await card.innerText(), new RegExp(text));
  }
  const hits = await figure(page, "requests").locator("[data-name=hit]").innerText();
  assert.ok(Number(hits) >= 3, hits);
  const errors = page.getByRole("region", { name: "Last errors" });
  assert.match(await errors.innerText(), /invalid_json\s+no\s+\/package\/queryOrder/);
  assert.match(await page.getByRole("region", { name: "Routes" }).innerText(), /\/package\/orderPackage\s+command/);
  await page.getByText("Every key with its value").click();
  assert.match(await page.getByRole("region", { name: "Configuration in effect" }).innerText(), /request_timeout = "20s"/);
  for (const note of await page.locator("noscript p").all()) assert.ok(await note.isVisible());
});

test("the charts move with the traffic, and what is live is renewed", async (t) => {
  const page = await open(t, demo);
  const shapes = (name, shape) => figure(page, name).locator(`svg ${shape}`);
  const count = async (name) => Number(await figure(page, "requests").locator(`[data-name=${name}]`).getAttribute("data-value"));
  const before = await count("hit");
  await makeTraffic(demo, 6);
  await ask(demo, `{"device_id": "${Date.now()}"}`); // nobody has asked this
  await shapes("requests", "rect.hit").first().waitFor();
  await shapes("latency", "circle").first().waitFor();
  await shapes("budget", "path.day").first().waitFor({ state: "attached" });
  await page.waitForFunction((before) => Number(document.querySelector("[data-name=hit]").dataset.value) > before, before);
  const drawn = await shapes("requests", "rect").count();
  await makeTraffic(demo, 3);
  await page.waitForFunction((drawn) => document.querySelectorAll("[data-chart=requests] rect").length > drawn, drawn);
  assert.match(await figure(page, "requests").getByRole("img").getAttribute("aria-label"), /Requests a second by result: now [\d.]+\/s/);
  assert.match(await shapes("budget", "path.day").getAttribute("d"), /^M[\d.]+ [\d.]+(L[\d.]+ [\d.]+)+$/);
});

test("a pause holds the page as it is, by keyboard too", async (t) => {
  const page = await open(t, demo, { clock: true });
  const pause = page.getByRole("button", { name: "Pause" });
  for (let steps = 0; steps < 10 && !(await pause.evaluate((button) => button === document.activeElement)); steps += 1) {
    await page.keyboard.press("Tab");
  }
  await page.keyboard.press("Space");
  assert.equal(await pause.getAttribute("aria-pressed"), "true");
  await page.waitForLoadState("networkidle");
  const requests = [];
  page.on("request", (request) => requests.push(request.url()));
  await page.clock.runFor(20_000);
  assert.deepEqual(requests, []);
  const again = page.waitForRequest(`${demo.admin}/`);
  await pause.click();
  await page.clock.runFor(20_000);
  await again;
});

test("a request is explained, and a refusal is one too", async (t) => {
  await ask(demo, '{"page_no": 1, "page_size": 2}');
  const page = await open(t, demo);
  assert.equal(await page.getByLabel("Admin token").count(), 0, "nobody needs one on loopback");
  const explain = async (body, path = "/package/queryOrder") => {
    await page.getByLabel("Path").fill(path);
    await page.getByRole("textbox", { name: "Body" }).fill(body);
    const answered = page.waitForResponse((answer) => answer.url().includes("/explain"));
    await page.getByRole("button", { name: "Explain" }).click();
    await answered;
  };
  await explain('{"page_size": 2, "page_no": 1}');
  await page.locator("#explained .good").filter({ hasText: /^hit: / }).waitFor();
  assert.match(await page.locator("#explained pre").innerText(), /"canonical_text"/);
  await explain('{"device_id": "1"}', "/package/orderPackage");
  await page.locator("#explained .good").filter({ hasText: /^command: / }).waitFor();
  await page.getByLabel("Language").selectOption("en-US");
  await explain('{"page_size": 2, "page_no": 1}');
  await page.locator("#explained .good").filter({ hasText: /^miss: / }).waitFor();
});

test("what cannot be explained says why", async (t) => {
  const page = await open(t, demo, { expected: (text) => text.includes("400 (Bad Request)") });
  await page.getByRole("textbox", { name: "Body" }).fill('{"a": 1, "a": 2}');
  await page.getByRole("button", { name: "Explain" }).click();
  await page.locator("#explained .bad").filter({ hasText: /^invalid_json: / }).waitFor();
});

test("where a token is needed the page asks for it, and keeps it in memory only", async (t) => {
  await ask(guarded, "[");
  const page = await open(t, guarded, { expected: (text) => text.includes("401 (Unauthorized)") });
  const ids = page.locator("#failures-rows code");
  assert.equal(await ids.count(), 0);
  assert.match(await page.getByRole("region", { name: "Tenants" }).innerText(), /<img src=x onerror=alert\(1\)>/);

  await page.getByRole("button", { name: "Explain" }).click();
  await page.getByText("This needs the admin token.").waitFor();
  const token = page.getByLabel("Admin token");
  assert.ok(await token.evaluate((input) => input === document.activeElement));
  await token.fill(`${TOKEN}x`);
  await page.keyboard.press("Enter");
  await page.getByText("This needs the admin token.").waitFor();
  await token.fill(TOKEN);
  await page.keyboard.press("Enter");
  await page.locator("#explained .good").filter({ hasText: /^miss: / }).waitFor();
  await ids.first().waitFor();

  const kept = await page.evaluate(() => [document.cookie, localStorage.length, sessionStorage.length]);
  assert.deepEqual(kept, ["", 0, 0]);
  await page.reload();
  assert.equal(await page.getByLabel("Admin token").inputValue(), "");
});

for (const colorScheme of ["light", "dark"]) {
  for (const width of [1280, 390, 320]) {
    test(`it is readable and accessible, ${colorScheme}, ${width} pixels wide`, async (t) => {
      const page = await open(t, demo, { colorScheme, viewport: { width, height: 800 } });
      await makeTraffic(demo, 3);
      await page.getByRole("button", { name: "Explain" }).click();
      await page.locator("#explained pre").waitFor();
      await figure(page, "requests").locator("rect").first().waitFor();
      await page.getByText("Every key with its value").click();
      const [content, window_] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
      assert.ok(content <= window_, `${content} pixels of content in a window of ${window_}`);
      await page.evaluate(AXE);
      const { violations } = await page.evaluate(() => globalThis.axe.run());
      const told = violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.target).join(", ")}`);
      assert.deepEqual(told, []);
    });
  }
}

test("a gateway that is gone is told, and nothing that stands there is taken for new", async (t) => {
  const gateway = await startDemo();
  const page = await open(t, gateway, { expected: (text) => text.includes("ERR_CONNECTION_REFUSED") });
  await gateway.stop();
  const lost = page.getByRole("alert");
  await lost.waitFor();
  assert.match(await lost.innerText(), /^The gateway cannot be read: .* as of \d{4}-\d\d-\d\d .* UTC\.$/);
});

test("the screenshot of the README", { skip: !SCREENSHOT }, async (t) => {
  const gateway = await startDemo();
  t.after(() => gateway.stop());
  const control = (settings) => fetch(`${gateway.vendor}/_simulator/control`, { method: "POST", body: JSON.stringify(settings) });
  await control({ latency: "400ms" });
  const page = await open(t, gateway, { viewport: { width: 1200, height: 1025 } });
  const end = Date.now() + 5 * 60_000;
  for (let round = 0; Date.now() < end; round += 1) {
    // Some pages are asked for more often than others, by more services at some times than at others.
    const number = 1 + Math.round(1.5 + 1.5 * Math.sin(round / 25));
    const bodies = Array.from({ length: number }, () => JSON.stringify({ page_no: Math.ceil(Math.random() ** 3 * 12), page_size: 5 }));
    await Promise.all(bodies.map((body) => ask(gateway, body)));
    if (round % 97 === 50) await ask(gateway, '{"page_no": 1, "page_no": 2}');
    if (round % 120 === 60) await ask(gateway, ORDER, "/package/orderPackage");
    if (round % 60 === 30) await control({ latency: `${300 + Math.round(Math.random() * 500)}ms` });
    await page.waitForTimeout(250);
  }
  await page.screenshot({ path: SCREENSHOT });
});
