/** Choosing what is explained: a picture, dropped, pasted or picked, or a sample. */
import { useEffect, useRef, useState } from "../vendor/hooks.js";
import { html } from "../html.js";
import { size } from "../format.js";
import { LINK_BYTES, pictureParams, uploadSize } from "../pictures.js";
import { Picture } from "./picture.js";
import { Samples } from "./samples.js";

/**
 * @param {{question: import("../question.js").Question, input: import("../input.js").Input|null, names: string[],
 *   onChoose: (changes: Record<string, string|null>) => void}} props
 */
export function InputPicker({ question, input, names, onChoose }) {
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
    <div class="chosen"><${Chosen} question=${question} input=${input} names=${names} /><${FilePicker} onFile=${take} /></div>
    <${Samples} chosen=${question.sample} onChoose=${(sample) => onChoose({ sample, image: null, upload: null })} />
  </section>`;
}

function FilePicker({ onFile }) {
  const field = useRef(null);
  const picked = ({ target }) => {
    onFile(target.files[0]);
    target.value = "";
  };
  return html`<div class="file">
    <button type="button" onClick=${() => field.current.click()}>Choose a picture</button>
    <input ref=${field} type="file" accept="image/png,image/jpeg" aria-label="Picture file" tabindex="-1" class="visually-hidden" onChange=${picked} />
    <p class="quiet small">or drop or paste one here (PNG, JPEG)</p>
  </div>`;
}

function Chosen({ question, input, names }) {
  if (!input) return html`<span class="picture missing large" role="img" aria-label="No input chosen"></span>`;
  const { picture, sample } = input;
  return html`<figure>
    ${picture ? html`<${Picture} bytes=${picture} alt="The input that is explained" class="large" />` : html`<span class="picture missing large" role="img" aria-label="The input is not a picture">no picture</span>`}
    ${sample && html`<figcaption class="small"><code>${sample.sample_id}</code> labelled ${names[sample.class_id]}</figcaption>`}
    ${question.upload && html`<figcaption class="small">${size(uploadSize(question.upload))}: too large for a link, which carries up to ${size(LINK_BYTES)}. Who opens the link must choose the picture anew.</figcaption>`}
  </figure>`;
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
