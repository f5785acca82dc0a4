/** Cutting and scaling a picture to what a model takes. */
import { encodePng } from "./png.js";

/** @param {Uint8Array} picture @param {any} model @returns {Promise<Uint8Array>} A PNG as the model takes it. */
export async function fitted(picture, { image_size: [width, height], image_mode: mode }) {
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
