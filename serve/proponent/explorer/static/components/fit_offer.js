/** A picture of another size or colour than the model takes: it can be fitted here. */
import { useContext, useState } from "../vendor/hooks.js";
import { App } from "../context.js";
import { html } from "../html.js";
import { pictureParams } from "../pictures.js";

/** @param {{picture: Uint8Array, onChoose: (changes: Record<string, string|null>) => void}} props */
export function FitOffer({ picture, onChoose }) {
  const { model } = useContext(App);
  const [failed, setFailed] = useState(false);
  const [width, height] = model.image_size;
  const wanted = `${model.image_mode === "L" ? "grey" : "in colour"}${width ? `, ${width} × ${height} pixels` : ""}`;
  const fit = async () => {
    const { fitted } = await import("../fitting.js");
    fitted(picture, model).then((bytes) => onChoose(pictureParams(bytes)), () => setFailed(true));
  };
  return html`<p>This model takes pictures that are ${wanted}. The middle of yours can be cut out and scaled to that in this page; what the model then sees is shown on the left.</p>
    <p><button type="button" class="primary" onClick=${fit}>Fit the picture</button> ${failed && html`<span role="alert">The browser cannot read it either.</span>`}</p>`;
}
