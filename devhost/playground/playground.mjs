// One call to the shim, as a page makes it, and what the browser lets the page know of it.

const element = (id) => document.getElementById(id);

element("origin").textContent = location.origin;
element("base-url").value = (await (await fetch("/settings")).json()).base_url;
element("key").focus();

element("call").addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = document.querySelector("button");
  button.disabled = true;
  clear();
  const url = `${element("base-url").value.replace(/\/+$/, "")}/chat/completions`;
  await Promise.all([showPreflight(url), showAnswer(url)]);
  button.disabled = false;
});

function clear() {
  for (const id of ["answer", "figures", "reason"]) element(id).textContent = "";
  for (const id of ["preflight", "headers"]) element(id).replaceChildren();
  say("verdict", "asking…");
  say("status", "waiting…");
}

async function showAnswer(url) {
  const started = performance.now();
  const seconds = () => `${((performance.now() - started) / 1000).toFixed(2)} s`;
  let response;
  try {
    response = await fetch(url, {
      method: "POST",
      headers: { authorization: `Bearer ${element("key").value}`, "content-type": "application/json" },
      body: JSON.stringify({
        model: element("model").value,
        messages: [{ role: "user", content: element("message").value }],
        stream: true,
        stream_options: { include_usage: true },
      }),
    });
  } catch {
    element("answer").textContent =
      "The browser kept the answer from this page, or could not reach the shim. The preflight says which.";
    say("status", "no answer", "bad");
    return;
  }
  fill("headers", [...response.headers]);
  if (!response.ok) {
    const after = seconds();
    element("answer").textContent = await readError(response);
    say("status", `${response.status} after ${after}`, "bad");
    return;
  }
  try {
    let pieces = 0;
    let first = "";
    let tokens = "";
    for await (const { usage, choices } of readEvents(response.body)) {
      first ||= seconds();
      if (usage) tokens = `; ${usage.prompt_tokens} tokens in, ${usage.completion_tokens} out`;
      const piece = choices?.[0]?.delta?.content;
      if (!piece) continue;
      pieces += 1;
      if (pieces === 1) say("status", `first piece after ${seconds()}`);
      element("answer").append(piece);
    }
    element("figures").textContent = `First event after ${first}${tokens}`;
    say("status", `${response.status}, ${pieces} pieces in ${seconds()}`, "good");
  } catch {
    say("status", `broke off after ${seconds()}`, "bad");
  }
}

async function readError(response) {
  const text = await response.text();
  try {
    const { code, message } = JSON.parse(text).error;
    return `${code}: ${message}`;
  } catch {
    return text;
  }
}

/** The chunks in a stream of chat completion chunks (server-sent events). */
async function* readEvents(body) {
  let rest = "";
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (let read = await reader.read(); !read.done; read = await reader.read()) {
    const lines = (rest + read.value).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:") || line.endsWith("[DONE]")) continue;
      yield JSON.parse(line.slice(5));
    }
  }
}

/** Browsers show no page the answer to a preflight; devhost sends the same one and tells. */
async function showPreflight(url) {
  const asked = await fetch("/preflight", { method: "POST", body: JSON.stringify({ url }) });
  const { origin, status, headers, body, failure } = await asked.json();
  if (failure) {
    element("reason").textContent = `Nothing answers at this base URL (${failure}).`;
    say("verdict", "no answer", "bad");
    return;
  }
  const values = new Map(headers);
  const allowed = [origin, "*"].includes(values.get("access-control-allow-origin")) && status >= 200 && status < 300;
  element("reason").textContent = allowed ? "" : reasonOf(status, body);
  fill("preflight", headers.filter(([name]) => name.startsWith("access-control-") || name === "vary").sort());
  say("verdict", `${status}: ${allowed ? "this origin may call" : "this origin may not call"}`, allowed ? "good" : "bad");
}

function reasonOf(status, body) {
  try {
    return JSON.parse(body).error.message;
  } catch {
    return status === 204
      ? "It was answered, but not for this origin: where the platform answers preflights, its own list must name the origin."
      : body;
  }
}

function say(id, text, kind = "") {
  element(id).textContent = text;
  element(id).className = kind;
}

function fill(id, rows) {
  element(id).replaceChildren(
    ...rows.map((cells) => {
      const row = document.createElement("tr");
      row.append(...cells.map((text) => Object.assign(document.createElement("td"), { textContent: text })));
      return row;
    }),
  );
}
