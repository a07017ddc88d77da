// Run by test_openai_clients.py, beside a node_modules with openai, with a server's address: chats, prints JSON.
import OpenAI from "openai";
import { VERSION } from "openai/version";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "k", maxRetries: 0 });
const messages = [{ role: "user", content: "A) go\nB) wait\nAnswer:" }];
const asked = { model: "tiny", messages, temperature: 0 }, chats = client.chat.completions;
const said = [];
for (const more of [{}, { stop: ["A", "B", "C"] }]) {
  for (const make of ["create", "parse"]) said.push((await chats[make]({ ...asked, ...more })).choices[0].message);
  said.push((await chats.stream({ ...asked, ...more }).finalChatCompletion()).choices[0].message);
}
if (said.map((message) => Boolean(message.content)).join() !== "true,true,true,false,false,false") throw new Error(JSON.stringify(said));
const forms = said.flatMap((message) => [message, { ...message, tool_calls: [], refusal: null, annotations: [] }]);
for (const form of forms) {
  await chats.create({ model: "tiny", messages: [...messages, form, ...messages] });
}
let named = null;
try {
  await chats.create({ ...asked, response_format: { type: "json_object" }, metadata: { run: "x" }, store: true });
} catch (error) {
  named = error.param;
}
console.log(JSON.stringify({ version: VERSION, forms: forms.length, named }));
