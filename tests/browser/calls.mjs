// What the tests have the page do, with the `openai` package as it is published.
import OpenAI from "./node_modules/openai/index.mjs";

const CHAT = { model: "gpt-4o", messages: [{ role: "user", content: "Hello, browser!" }] };

function client({ baseURL, apiKey, headers, credentials }) {
  return new OpenAI({
    baseURL,
    apiKey,
    dangerouslyAllowBrowser: true,
    maxRetries: 0,
    defaultHeaders: headers,
    fetchOptions: credentials ? { credentials } : undefined,
  });
}

/** What `call` gives, or what of its error a page can read. */
async function outcome(call) {
  try {
    return await call();
  } catch (error) {
    return {
      error: error.constructor.name,
      status: error.status,
      code: error.code,
      message: error.message,
      requestId: error.requestID,
      retryAfter: error.headers?.get("retry-after"),
      link: error.headers?.get("link"),
    };
  }
}

export const chat = (where) =>
  outcome(async () => {
    const { data, response } = await client(where).chat.completions.create(CHAT).withResponse();
    return { text: data.choices[0].message.content, headers: Object.fromEntries(response.headers) };
  });

export const streamedChat = (where) =>
  outcome(async () => {
    const pieces = [];
    for await (const chunk of await client(where).chat.completions.create({ ...CHAT, stream: true })) {
      const piece = chunk.choices[0]?.delta.content;
      if (piece) pieces.push(piece);
      if (pieces.length === 1) await window.sawFirstPiece?.(piece);
    }
    return { pieces };
  });

export const upload = (where, lines) =>
  outcome(async () => {
    const file = new File(['{"custom_id": "1"}\n'.repeat(lines)], "batch.jsonl");
    const { bytes, filename } = await client(where).files.create({ file, purpose: "batch" });
    return { bytes, filename };
  });
