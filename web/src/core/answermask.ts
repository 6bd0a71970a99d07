/** What a model marks, as its answers have told it so far. Only the box that holds all of it is ever cleared. */

import { emptyGrid, holds, insertBox, isEmpty, union } from "./boxes";
import { boxSize, boxVoxels, type Box, type Vec3 } from "./geometry";

export interface FilledBox {
  readonly box: Box;
  /** Content of the box, x fastest. */
  readonly voxels: Uint8Array;
}

export class AnswerMask {
  readonly voxels: Uint8Array;
  /** Nothing is marked outside; null: nothing is. */
  #marked: Box | null = null;

  constructor(readonly dims: Vec3) {
    this.voxels = emptyGrid(dims);
  }

  /**
   * What the next answer writes into `voxels`, which the caller shall do; null if nothing.
   *
   * @param whole the answer is all that is marked: what was marked beside its box is taken away
   */
  next(answer: FilledBox, whole: boolean): FilledBox | null {
    const came = isEmpty(answer.box) ? null : answer.box;
    const was = this.#marked;
    const stays = whole ? null : was;
    this.#marked = stays === null ? came : came === null ? stays : union(stays, came);
    if (!whole || was === null || (came !== null && holds(came, was))) return came === null ? null : answer;
    const box = came === null ? was : union(was, came);
    const voxels = new Uint8Array(boxVoxels(box));
    if (came !== null) insertBox(voxels, boxSize(box), moved(came, box.lo), answer.voxels);
    return { box, voxels };
  }

  /** Follow an answer that nothing else is done with. */
  take(answer: FilledBox, whole: boolean): void {
    const next = this.next(answer, whole);
    if (next !== null) insertBox(this.voxels, this.dims, next.box, next.voxels);
  }
}

/** As seen from `origin`. */
function moved({ lo, hi }: Box, origin: Vec3): Box {
  const from = ([x, y, z]: Vec3): Vec3 => [x - origin[0], y - origin[1], z - origin[2]];
  return { lo: from(lo), hi: from(hi) };
}
