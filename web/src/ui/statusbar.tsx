/** Under the panes: what is under the pointer, whether the draft is safe, and what becomes of the image. */

import { indexOf, isInside, toWorld, type Vec3 } from "../core/geometry";
import { clockTime } from "../core/numbers";
import { canEdit, hover, open } from "../state/editor";
import { draftState } from "../state/drafting";
import { nameOf } from "../state/labels";
import type { OpenImage } from "../state/open_image";
import { dialog, offers } from "../state/page";
import { keyMap } from "../state/settings";
import { submit, submitting } from "../state/work";
import { saveNow } from "../state/drafting";
import { Icon } from "./icons";

export function StatusBar() {
  const image = open.value;
  const key = keyMap.value.shown("submit");
  return (
    <footer class="status">
      {image === null ? <span class="readout muted">no image is open</span> : <ReadOut image={image} />}
      <DraftState />
      <span class="grow" />
      {offers("POST /api/v1/images/{}/flag") && <button type="button" disabled={image === null} onClick={() => { dialog.value = { name: "flag", content: () => null }; }}><Icon name="flag" size={15} /> Flag</button>}
      <button type="button" disabled={image === null} onClick={() => { dialog.value = { name: "skip", content: () => null }; }}><Icon name="skip" size={15} /> Skip</button>
      <button type="button" class="primary" disabled={!canEdit.value || submitting.value} title={`Submit (${key})`} onClick={() => void submit()}><Icon name="check" size={16} /> Submit <kbd>{key}</kbd></button>
    </footer>
  );
}

function ReadOut({ image }: { image: OpenImage }) {
  void [image.edits.value, image.pixels.value];
  const under = hover.value;
  const at = under === null ? image.cursor.value : (under.at.map(Math.round) as unknown as Vec3);
  if (!isInside(image.dims, ...at)) return <span class="readout muted">outside the image</span>;
  const index = indexOf(image.dims, ...at);
  const values = image.valueAt(index);
  const label = image.map.voxels[index]!;
  const mm = toWorld(image.header.affine, at).map((value) => value.toFixed(1)).join(" ");
  const value = values.length === 3 ? `RGB ${values.join(" ")}` : `${Math.round(values[0]! * 100) / 100}${image.header.unit === "" ? "" : ` ${image.header.unit}`}`;
  return (
    <span class="readout" data-voxel={at.join(",")} data-value={values.join(",")} data-label={label}>
      <b class="read-value">{value}</b>
      <span class="read-label">{nameOf(label)}</span>
      <span class="read-voxel">x {at[0]} y {at[1]}{image.dims[2] > 1 ? ` z ${at[2]}` : ""}</span>
      <span class="read-mm">{image.isPicture ? "" : `${mm} mm`}</span>
    </span>
  );
}

function DraftState() {
  const now = draftState.value;
  const texts: Readonly<Record<string, string>> = {
    none: "", waiting: "draft not saved yet", saving: "saving the draft…", conflict: "draft changed elsewhere",
    saved: now.kind === "saved" ? `draft saved ${clockTime(now.atMs)}` : "", here: now.kind === "here" ? "kept in this browser" : "",
  };
  if (now.kind === "none") return <span class="draft" data-draft="none" />;
  const title = `Drafts are saved after each step; ${keyMap.value.shown("save-draft")} saves now`;
  return <button type="button" class={`draft quiet small-text draft-${now.kind}`} data-draft={now.kind} title={title} onClick={() => void saveNow()}>{texts[now.kind]}</button>;
}
