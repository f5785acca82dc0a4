/** A picture of another size or colour than the model takes: it can be fitted here. */
import { useContext, useState } from "../vendor/hooks.js";
import { App } from "../context.js";
import { html } from "../html.js";
import { pictureParams } from "../pictures.js";
import { encodePng } from "../png.js";

/** @param {{picture: Uint8Array, onChoose: (changes: Record<string, string|null>) => void}} props */
export function FitOffer({ picture, onChoose }) {
  const { model } = useContext(App);
  const [failed, setFailed] = useState(false);
  const [width, height] = model.image_size;
  const wanted = `${model.image_mode === "L" ? "grey" : "in colour"}${width ? `, ${width} × ${height} pixels` : ""}`;
  const fit = () => fitted(picture, model).then((bytes) => onChoose(pictureParams(bytes)), () => setFailed(true));
  return html`<p>This model takes pictures that are ${wanted}. The middle of yours can be cut out and scaled to that in this page; what the model then sees is shown on the left.</p>
    <p><button type="button" class="primary" onClick=${fit}>Fit the picture</button> ${failed && html`<span role="alert">The browser cannot read it either.</span>`}</p>`;
}

/** @param {Uint8Array} picture @param {any} model @returns {Promise<Uint8Array>} A PNG as the model takes it. */
async function fitted(picture, { image_size: [width, height], image_mode: mode }) {
  const whole = await createImageBitmap(new Blob([picture]));
  const [toWidth, toHeight] = width ? [width, height] : [whole.width, whole.height];
  const scale = Math.min(whole.width / toWidth, whole.height / toHeight);
  const [cutWidth, cutHeight] = [toWidth * scale, toHeight * scale];
  const cut = [(whole.width - cutWidth) / 2, (whole.height - cutHeight) / 2, cutWidth, cutHeight].map(Math.round);
  const resized = await createImageBitmap(whole, ...cut, { resizeWidth: toWidth, resizeHeight: toHeight, resizeQuality: "high" });
  const canvas = new OffscreenCanvas(toWidth, toHeight).getContext("2d");
  canvas.fillStyle = "white";
  canvas.fillRect(0, 0, toWidth, toHeight);
  canvas.drawImage(resized, 0, 0);
  return encodePng(canvas.getImageData(0, 0, toWidth, toHeight).data, toWidth, toHeight, mode);
}
