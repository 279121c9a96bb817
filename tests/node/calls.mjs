// Calls through the `openai` package, to the API that the environment names; prints the parsed results as JSON.
import { createHash } from "node:crypto";
import OpenAI, { AzureOpenAI, toFile } from "openai";

const { HOST, V1_URL, KEY, API_VERSION } = process.env;
const options = { apiKey: KEY, maxRetries: 0 };
const azure = { ...options, endpoint: HOST, apiVersion: API_VERSION };
const clients = {
  // APIM takes the key in `api-key` alone; the shim from either.
  OpenAI: new OpenAI({ ...options, baseURL: V1_URL, defaultHeaders: { "api-key": KEY } }),
  AzureOpenAI: new AzureOpenAI(azure),
};

const messages = [{ role: "user", content: "Hei, åpne døren! 👋" }];
const weather = { type: "object", properties: { place: { type: "string" } }, required: ["place"] };
const city = {
  type: "object",
  properties: { name: { type: "string" }, inhabitants: { type: "integer" } },
  required: ["name", "inhabitants"],
  additionalProperties: false,
};

const all = async (stream) => {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
};
const digest = async (response) => {
  const bytes = Buffer.from(await response.arrayBuffer());
  return [bytes.length, createHash("sha256").update(bytes).digest("hex")];
};

const scenarios = {
  chat: async (client) => [
    await client.chat.completions.create({ model: "gpt-4o", messages, n: 2 }),
    await all(await client.chat.completions.create({ model: "gpt-4o", messages, stream: true })),
  ],
  tools: async (client) => {
    const tools = [{ type: "function", function: { name: "weather", parameters: weather } }];
    const first = await client.chat.completions.create({ model: "gpt-4o", messages, tools });
    const { message } = first.choices[0];
    const answer = { role: "tool", tool_call_id: message.tool_calls[0].id, content: "Rain." };
    const next = [...messages, message, answer];
    return [first, await client.chat.completions.create({ model: "gpt-4o", messages: next, tools })];
  },
  structuredOutput: async (client) => {
    const response_format = { type: "json_schema", json_schema: { name: "city", schema: city, strict: true } };
    const completion = await client.chat.completions.parse({ model: "gpt-4o", messages, response_format });
    return [completion, JSON.parse(completion.choices[0].message.content)];
  },
  vision: (client) => {
    const url = `data:image/png;base64,${Buffer.alloc(50_000, 7).toString("base64")}`;
    const content = [{ type: "text", text: "What is this?" }, { type: "image_url", image_url: { url } }];
    return client.chat.completions.create({ model: "gpt-4o", messages: [{ role: "user", content }] });
  },
  embeddings: (client) => client.embeddings.create({ model: "text-embedding-3-small", input: ["a", "b"] }),
  responses: async (client) => {
    const created = await client.responses.create({ model: "gpt-4o", input: "Hello" });
    const chained = await client.responses.create({
      model: "gpt-4o",
      input: "And?",
      previous_response_id: created.id,
    });
    const streamed = await all(await client.responses.create({ model: "gpt-4o", input: "Hello", stream: true }));
    const queued = await client.responses.create({ model: "gpt-4o", input: "Hello", background: true });
    return [
      created,
      chained,
      streamed,
      queued,
      await client.responses.cancel(queued.id),
      await client.responses.retrieve(created.id),
      (await client.responses.inputItems.list(chained.id)).data,
    ];
  },
  filesAndBatches: async (client) => {
    const file = await toFile(Buffer.from('{"custom_id": "1"}\n'.repeat(5000)), "å.jsonl");
    const uploaded = await client.files.create({ file, purpose: "batch" });
    const batch = await client.batches.create({
      input_file_id: uploaded.id,
      endpoint: "/v1/chat/completions",
      completion_window: "24h",
    });
    const listed = await all(await client.files.list({ purpose: "batch" }));
    return [
      uploaded,
      batch,
      listed.filter((each) => each.id === uploaded.id),
      await digest(await client.files.content(uploaded.id)),
      await client.batches.retrieve(batch.id),
      await client.batches.cancel(batch.id),
      await client.files.delete(uploaded.id),
    ];
  },
  transcriptionWithTheModelLast: async (client) => {
    const file = await toFile(Buffer.alloc(20 * 1024 * 1024, "RIFF"), "talk.wav");
    return client.audio.transcriptions.create({ file, model: "whisper" });
  },
  speech: async (client) => digest(await client.audio.speech.create({ model: "tts", voice: "alloy", input: "One two" })),
  images: async (client) => {
    // For a form, this client takes the deployment from its options only.
    const editor = client instanceof AzureOpenAI ? new AzureOpenAI({ ...azure, deployment: "dall-e-3" }) : client;
    const image = await toFile(Buffer.alloc(900), "a.png");
    return [
      await client.images.generate({ model: "dall-e-3", prompt: "A fjord" }),
      await editor.images.edit({ model: "dall-e-3", prompt: "A boat", image }),
    ];
  },
  vectorStores: async (client) => {
    const made = await client.vectorStores.create({ name: "papers" });
    return [made, await client.vectorStores.retrieve(made.id), await client.vectorStores.delete(made.id)];
  },
  assistants: async (client) => {
    const { assistants, threads } = client.beta;
    const made = await assistants.create({ model: "gpt-4o", name: "Kari" });
    const thread = await threads.create();
    const message = await threads.messages.create(thread.id, { role: "user", content: "Hello" });
    const run = await threads.runs.create(thread.id, { assistant_id: made.id });
    const said = (await threads.messages.list(thread.id)).data;
    return [made, thread, message, run, said, await assistants.delete(made.id)];
  },
  models: async (client) => [(await client.models.list()).data, await client.models.retrieve("gpt-4o")],
  refusals: async (client) => {
    const refused = (call) => call.then(() => null, ({ status, code, type }) => ({ status, code, type }));
    return [
      await refused(client.chat.completions.create({ model: "gpt-99", messages })),
      await refused(client.files.retrieve("none")),
      await refused(client.chat.completions.create({ model: "gpt-4o" })),
    ];
  },
};

const results = {};
for (const [name, scenario] of Object.entries(scenarios)) {
  results[name] = {};
  for (const [kind, client] of Object.entries(clients)) results[name][kind] = await scenario(client);
}
process.stdout.write(JSON.stringify(results));
