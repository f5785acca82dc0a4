/** Choosing what is explained: a picture, dropped, pasted or picked, a text, a row, or a sample. */
import { useContext, useEffect, useRef, useState } from "../vendor/hooks.js";
import { App } from "../context.js";
import { html } from "../html.js";
import { size } from "../format.js";
import { nounOf } from "../input.js";
import { LINK_BYTES, pictureParams, uploadSize } from "../pictures.js";
import { Later } from "./later.js";
import { Picture } from "./picture.js";
import { Samples } from "./samples.js";

/**
 * @param {{question: import("../question.js").Question, input: import("../input.js").Input|null, names: string[],
 *   onChoose: (changes: Record<string, string|null>) => void}} props
 */
export function InputPicker(props) {
  const { model } = useContext(App);
  return nounOf(model) === "picture" ? html`<${PictureInput} ...${props} />` : html`<${WordsInput} model=${model} ...${props} />`;
}

const TEXT = { name: "TextInput", from: () => import("./text_input.js") };
const RECORD = { name: "RecordForm", from: () => import("./record_form.js") };

function WordsInput({ model, question, input, names, onChoose }) {
  const { text = "", record = null } = input?.body ?? {};
  const isText = nounOf(model) === "text";
  return html`<section class="panel input" aria-label="Input">
    ${isText ? html`<${Later} ...${TEXT} value=${text} onChoose=${onChoose} />` : html`<${Later} ...${RECORD} record=${record} columns=${model.input_signature.columns} onChoose=${onChoose} />`}
    <${About} question=${question} input=${input} names=${names} />
    <${Samples} chosen=${question.sample} onChoose=${(sample) => onChoose({ sample, text: null, record: null })} />
  </section>`;
}

function PictureInput({ question, input, names, onChoose }) {
  const [over, setOver] = useState(false);
  const take = async (file) => file && onChoose(pictureParams(new Uint8Array(await file.arrayBuffer())));
  usePaste(take);
  const drop = (event) => {
    event.preventDefault();
    setOver(false);
    take(event.dataTransfer.files[0]);
  };
  const hover = (event) => {
    event.preventDefault();
    setOver(true);
  };
  return html`<section class="panel input" aria-label="Input" data-over=${over} onDrop=${drop} onDragOver=${hover} onDragLeave=${() => setOver(false)}>
    <div class="chosen">
      <${Chosen} input=${input} />
      <div class="file"><${FilePicker} onFile=${take} /><${About} question=${question} input=${input} names=${names} /></div>
    </div>
    <${Samples} chosen=${question.sample} onChoose=${(sample) => onChoose({ sample, image: null, upload: null })} />
  </section>`;
}

function FilePicker({ onFile }) {
  const field = useRef(null);
  const picked = ({ target }) => {
    onFile(target.files[0]);
    target.value = "";
  };
  return html`<button type="button" onClick=${() => field.current.click()}>Choose a picture</button>
    <input ref=${field} type="file" accept="image/png,image/jpeg" aria-label="Picture file" tabindex="-1" class="visually-hidden" onChange=${picked} />
    <p class="quiet small">or drop or paste one here (PNG, JPEG)</p>`;
}

function Chosen({ input }) {
  if (!input) return html`<span class="picture missing large" role="img" aria-label="No input chosen"></span>`;
  if (!input.picture) return html`<span class="picture missing large" role="img" aria-label="The input is not a picture">no picture</span>`;
  return html`<${Picture} bytes=${input.picture} alt="The input that is explained" class="large" />`;
}

function About({ question: { upload }, input, names }) {
  const sample = input?.sample;
  return html`
    ${sample && html`<p class="small"><code>${sample.sample_id}</code>, labelled <strong>${names[sample.class_id]}</strong></p>`}
    ${upload && html`<p class="small">${size(uploadSize(upload))}: too large for a link, which carries up to ${size(LINK_BYTES)}. Who opens the link must choose the picture anew.</p>`}`;
}

/** @param {(file: File) => void} take */
function usePaste(take) {
  const latest = useRef(take);
  latest.current = take;
  useEffect(() => {
    const paste = (event) => latest.current([...event.clipboardData.files].find((file) => file.type.startsWith("image/")));
    addEventListener("paste", paste);
    return () => removeEventListener("paste", paste);
  }, []);
}
