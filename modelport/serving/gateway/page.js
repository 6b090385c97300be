// What the page does, in the browser. It asks the API that this gateway serves to everybody; the key is held by the key
// field of this tab and goes into the X-API-Key header of these requests, and nowhere else. Gradio runs this once, with
// `element` for the part of the page where images are dropped, and `trigger` for its events.
const MAX_BYTES = __MAX_BYTES__;
const SECONDS = 120;
const api = (path) => new URL(`../v1/${path}`, document.baseURI);
let image = null; // the file as the reader has it: its own bytes are sent
let known = [];

const REMEDIES = {
  unauthorized: "This key is not valid. Check it, or ask whoever runs this platform for one.",
  unknown_model: "This model is not there any more. Show the models again.",
  unknown_release: "This version is not loaded any more. Show the models again, and choose another.",
  not_an_image: "This file is not a JPEG or PNG image.",
  unsupported: "This kind of JPEG or PNG cannot be read.",
  truncated: "This image file is damaged or incomplete.",
  empty: "This file is empty.",
  too_many_pixels: "This image has too many pixels.",
  busy: "The platform is busy. Try again in a moment.",
  no_release_ready: "No version of this model is ready to answer. Try again later.",
  server_away: "The model server is away. Try again in a moment.",
  inference_failed: "The model failed on this image.",
  wrong_outputs: "The model's answer made no sense, and is not shown.",
  deadline_exceeded: "The model took too long. Try again.",
  upload_too_slow: "The image took too long to arrive. Try again.",
};
const tooLarge = () => `This file is too large: at most ${megabytes(MAX_BYTES)} MB are taken.`;

class Refused extends Error {}

const escaped = (text) =>
  String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
const megabytes = (bytes) => (bytes / 1048576).toLocaleString("en", { maximumFractionDigits: 1 });
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const short = (digest) => digest.slice(0, 12);
const update = (properties) => ({ __type__: "update", ...properties });
const note = (text) => `<div id="mp-status" class="mp-note" role="status">${escaped(text)}</div>`;
const problem = (text) => `<div id="mp-status" class="mp-problem" role="alert">${escaped(text)}</div>`;
// Status, overlay and details without an answer: what was said of another image or model must not stand beside this one.
const only = (status) => [status, update({ visible: false, value: null }), ""];

async function ask(path, key, options = {}) {
  if (!key) throw new Refused("Give your API key first.");
  // What no header can carry is no key.
  if (!/^[\x21-\x7e]+$/.test(key.trim())) throw new Refused(REMEDIES.unauthorized);
  let response;
  try {
    response = await fetch(api(path), {
      ...options,
      headers: { "X-API-Key": key.trim() },
      credentials: "omit",
      cache: "no-store",
      signal: AbortSignal.timeout(1000 * SECONDS),
    });
  } catch (error) {
    throw new Refused(
      error.name === "TimeoutError" ? `No answer came within ${SECONDS} seconds.` : "The gateway cannot be reached.",
    );
  }
  const body = await response.json().catch(() => null);
  if (response.ok && body !== null) return body;
  if (body?.reason === "too_large") throw new Refused(tooLarge());
  const words = REMEDIES[body?.reason] ?? `The gateway answered with status ${response.status}.`;
  const more = body?.message && body.reason !== "unauthorized" ? ` (${body.message})` : "";
  const name = body?.request_id ? ` Request ${body.request_id}.` : "";
  throw new Refused(words + more + name);
}

const said = (error) => {
  if (error instanceof Refused) return problem(error.message);
  console.error(error);
  return problem("The page failed. Load it again; if that does not help, tell whoever runs this platform.");
};

async function models(key) {
  const nothing = update({ choices: [], value: null });
  try {
    known = (await ask("models", key)).models;
  } catch (error) {
    known = [];
    return [nothing, nothing, ...only(said(error))];
  }
  if (known.length === 0) return [nothing, nothing, ...only(problem("No model is served here yet."))];
  const choices = known.map(({ name, ready }) => [ready ? name : `${name} (not ready)`, name]);
  const first = (known.find(({ ready }) => ready) ?? known[0]).name;
  const ready = known.filter((model) => model.ready).length;
  return [
    update({ choices, value: first }),
    versions(first),
    ...only(note(`${known.length} ${known.length === 1 ? "model" : "models"}, ${ready} ready. Choose one, and an image.`)),
  ];
}

function versions(name) {
  const model = known.find((each) => each.name === name);
  if (!model) return update({ choices: [], value: null });
  const releases = model.releases ?? [];
  const active = releases.find((release) => release.active) ?? releases.find(({ digest }) => digest === model.release);
  const others = releases.filter((release) => release !== active);
  const called = ({ digest, precision }) => (precision ? `${short(digest)}, ${precision}` : short(digest));
  const first = active ? `active: ${called(active)}` : "active";
  const choices = [[first, "active"], ...others.map((release) => [called(release), release.digest])];
  return update({ choices, value: "active" });
}

const chosen = () => only(note("Not asked about this image yet."));
const working = () => [...only(note("Asking the model …")), update({ interactive: false })];

async function predict(key, name, version) {
  const free = update({ interactive: true });
  const asked = image;
  try {
    const answer = await predicted(key, name, version);
    if (image !== asked) return [...chosen(), free];
    const overlay = answer.overlay
      ? update({ visible: true, value: picture(answer), label: `Overlay, ${answer.width} × ${answer.height} pixels` })
      : update({ visible: false, value: null });
    return [headline(answer), overlay, numbers(answer), free];
  } catch (error) {
    return [...(image === asked ? only(said(error)) : chosen()), free];
  }
}

async function predicted(key, name, version) {
  if (!key) throw new Refused("Give your API key first.");
  if (!name) throw new Refused("Show the models, and choose one.");
  if (!image) throw new Refused("Choose an image first.");
  if (image.size > MAX_BYTES) throw new Refused(tooLarge());
  const form = new FormData();
  form.append("image", image, "image"); // its name stays here: it may be a patient's
  const query = new URLSearchParams({ overlay: "true" });
  if (version && version !== "active") query.set("release", version);
  return ask(`models/${encodeURIComponent(name)}/predict?${query}`, key, { method: "POST", body: form });
}

const picture = (answer) => ({
  path: "overlay.png",
  url: `data:image/png;base64,${answer.overlay}`,
  orig_name: `${answer.model}-overlay.png`,
  mime_type: "image/png",
  meta: { _type: "gradio.FileData" },
});

function headline(answer) {
  if (answer.task === "classify") {
    const label = escaped(answer.label);
    const sure = percent(answer.confidence);
    if (answer.unsure)
      return `<div id="mp-status" class="mp-unsure" role="alert"><strong>Unsure</strong>
        Do not rely on this answer. The likeliest class is ${label} with ${sure}, below the ${percent(answer.threshold)}
        that this model asks for.</div>`;
    return `<div id="mp-status" class="mp-result" role="status"><strong>${label}</strong> Confidence ${sure}</div>`;
  }
  if (answer.task === "detect") {
    const count = answer.detections.length;
    const meaning = count
      ? "with a score that is high enough for this version"
      : "The model found nothing. That does not prove that nothing is there.";
    return `<div id="mp-status" class="mp-result" role="status"><strong>${count} ${count === 1 ? "box" : "boxes"}</strong>
      ${meaning}</div>`;
  }
  if (answer.task === "segment") {
    const names = answer.classes.filter(({ id }) => id > 0).map(({ name }) => escaped(name));
    return `<div id="mp-status" class="mp-result" role="status"><strong>${percent(answer.coverage)}</strong>
      of the image is ${names.join(" or ")}</div>`;
  }
  return note("The model answered; this page cannot draw this task yet.");
}

const table = (caption, headings, rows) =>
  `<div class="mp-scroll"><table class="mp-table"><caption>${escaped(caption)}</caption>` +
  (headings ? `<thead><tr>${headings.map((name) => `<th scope="col">${escaped(name)}</th>`).join("")}</tr></thead>` : "") +
  `<tbody>${rows.join("")}</tbody></table></div>`;
const number = (value) => `<td class="number">${escaped(value)}</td>`;
const fact = (name, value, kind = "") => `<tr><th scope="row">${escaped(name)}</th><td class="${kind}">${escaped(value)}</td></tr>`;

function swatch(answer, id) {
  const color = answer.classes?.find((info) => info.id === id)?.color ?? "";
  return /^#[0-9a-fA-F]{6}$/.test(color) ? `<span class="mp-swatch" style="background:${color}"></span>` : "";
}

function numbers(answer) {
  const parts = [];
  if (answer.task === "classify") {
    const sorted = Object.entries(answer.probabilities).sort((a, b) => b[1] - a[1]);
    const rows = sorted.map(
      ([name, value]) =>
        `<tr><th scope="row">${escaped(name)}</th>${number(percent(value))}
         <td><meter min="0" max="1" value="${Number(value)}" aria-label="${escaped(name)}"></meter></td></tr>`,
    );
    parts.push(table("Probabilities", null, rows));
  } else if (answer.task === "detect" && answer.detections.length) {
    const rows = answer.detections.map(
      ({ label, class_id, score, box }) =>
        `<tr><th scope="row">${swatch(answer, class_id)}${escaped(label)}</th>${number(score.toFixed(3))}` +
        `${box.map((edge) => number(edge.toFixed(1))).join("")}</tr>`,
    );
    parts.push(table("Boxes, in pixels of the image", ["Class", "Score", "Left", "Top", "Right", "Bottom"], rows));
  } else if (answer.task === "segment") {
    const rows = answer.classes
      .filter(({ id }) => id > 0)
      .map(({ id, name }) => `<tr><td>${swatch(answer, id)}${escaped(name)}</td></tr>`);
    parts.push(table("Classes drawn", null, rows));
  }
  const times = answer.milliseconds;
  const rows = [fact("Model", answer.model), fact("Version", answer.release, "digest")];
  if (answer.precision) rows.push(fact("Precision", answer.precision));
  rows.push(
    fact("Image", `${answer.width} × ${answer.height} pixels`),
    fact("Decoding", `${times.decode.toFixed(1)} ms`),
    fact("Inference", `${times.inference.toFixed(1)} ms`),
    fact("Total", `${times.total.toFixed(1)} ms`),
    fact("Request", answer.request_id, "digest"),
  );
  parts.push(table("This answer", null, rows));
  return parts.join("");
}

function watch(element) {
  const input = element.querySelector("#mp-file");
  const area = element.querySelector(".mp-drop");
  const name = element.querySelector("#mp-name");
  const preview = element.querySelector("#mp-preview");
  const take = (file) => {
    if (!file) return;
    image = file;
    name.textContent = `${file.name}, ${Math.ceil(file.size / 1024)} KiB`;
    if (preview.src) URL.revokeObjectURL(preview.src);
    preview.onerror = () => (preview.hidden = true);
    preview.src = URL.createObjectURL(file);
    preview.hidden = false;
    trigger("upload");
  };
  input.addEventListener("change", () => take(input.files[0]));
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"])
    area.addEventListener(kind, (event) => {
      event.preventDefault();
      area.classList.toggle("over", kind === "dragenter" || kind === "dragover");
      if (kind === "drop") take(event.dataTransfer.files[0]);
    });
}

watch(element);
window.modelportPage = { models, versions, chosen, working, predict };
