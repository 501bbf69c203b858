"""Draws what each block computes: `python docs/figures/blocks.py` writes docs/figures/blocks/*.png.

One unit is a pixel of a picture shown 600 pixels wide; x to the right, y upwards, every place the middle of its box.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Circle, FancyBboxPatch
from PIL import Image

HERE = Path(__file__).resolve().parent / "blocks"
WIDTH, DPI, COLOURS = 600, 200, 48
INK, WRITE = "#22272e", "#c2560c"
# What a box is: its face and its edge.
KINDS = {
    "fixed": ("#eceff3", "#7d8794"),
    "fast": ("#fde3c8", WRITE),
    "tokens": ("#d9e8fb", "#3b74b9"),
    "plain": ("#ffffff", "#7d8794"),
}
LEGEND = {"fixed": "fixed while it reads", "fast": "written while it reads", "tokens": "keeps tokens"}

Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """A drawn box, by its middle and size."""

    x: float
    y: float
    w: float
    h: float

    @property
    def left(self) -> Point:
        return self.x - self.w / 2, self.y

    @property
    def right(self) -> Point:
        return self.x + self.w / 2, self.y

    @property
    def top(self) -> Point:
        return self.x, self.y + self.h / 2

    @property
    def bottom(self) -> Point:
        return self.x, self.y - self.h / 2


class Picture:
    """One figure of a given height, with a legend of the kinds in it along its lower edge."""

    def __init__(self, height: int) -> None:
        self.figure = plt.figure(figsize=(WIDTH / 100, height / 100))
        self.axes = self.figure.add_axes((0.0, 0.0, 1.0, 1.0))
        self.axes.set(xlim=(0, WIDTH), ylim=(0, height))
        self.axes.axis("off")
        self.kinds: set[str] = set()

    def box(self, x: float, y: float, text: str, kind: str = "fixed", *, w: float = 60, h: float = 34) -> Box:
        """A rounded box."""
        self.kinds.add(kind)
        face, edge = KINDS[kind]
        shape = FancyBboxPatch(
            (x - w / 2 + 3, y - h / 2 + 3),
            w - 6,
            h - 6,
            boxstyle="round,pad=3,rounding_size=4",
            facecolor=face,
            edgecolor=edge,
            linewidth=1.0,
            zorder=3,
        )
        self.axes.add_patch(shape)
        self.text(x, y, text)
        return Box(x, y, w, h)

    def sign(self, x: float, y: float, text: str) -> Box:
        """A small circle: a sum or a product."""
        self.axes.add_patch(Circle((x, y), 8, facecolor="white", edgecolor=INK, linewidth=1.0, zorder=3))
        self.text(x, y, text, size=9.5)
        return Box(x, y, 16, 16)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 8.5,
        align: str = "center",
        colour: str = INK,
    ) -> None:
        """Words or a formula."""
        self.axes.text(x, y, text, fontsize=size, ha=align, va="center", color=colour, zorder=4)

    def arrow(self, *points: Point, write: bool = False, head: bool = True) -> None:
        """A line through these points; dashed where it carries a write."""
        style = {"color": WRITE if write else INK, "linewidth": 1.1, "linestyle": "--" if write else "-"}
        xs, ys = zip(*points, strict=True)
        self.axes.plot(xs[:-1] if head else xs, ys[:-1] if head else ys, zorder=2, **style)
        if head:
            arrow = {
                "arrowstyle": "-|>,head_length=0.35,head_width=0.16",
                "shrinkA": 0,
                "shrinkB": 0,
                **style,
            }
            self.axes.annotate("", points[-1], points[-2], arrowprops=arrow, zorder=2)

    def row(self, *boxes: Box) -> None:
        """Arrows from each to the next."""
        for a, b in pairwise(boxes):
            self.arrow(a.right, b.left)

    def end(self, x: float, y: float, text: str) -> Box:
        """A name of what comes in or goes out."""
        self.text(x, y, text, size=10)
        return Box(x, y, 14, 14)

    def ticks(
        self, x: float, y: float, w: float, moments: Sequence[float], again: Sequence[float] = ()
    ) -> None:
        """A line of time with writes, and with starts from the learned initial weights."""
        self.axes.plot([x - w / 2, x + w / 2], [y, y], color="#7d8794", linewidth=0.9, zorder=2)
        for share in moments:
            at = x - w / 2 + share * w
            self.axes.plot([at, at], [y - 5, y + 5], color=WRITE, linewidth=1.5, zorder=3)
        for share in again:
            at = x - w / 2 + share * w
            self.axes.plot(
                [at], [y], marker="D", markersize=4.5, color=WRITE, markerfacecolor="white", zorder=4
            )

    def save(self, name: str) -> None:
        """Write a picture of few colours."""
        found = [kind for kind in LEGEND if kind in self.kinds]
        x = WIDTH / 2 - 79 * len(found) + 16
        for kind in found:
            self.box(x, 14, "", kind, w=16, h=11)
            self.text(x + 14, 14, LEGEND[kind], size=8, align="left")
            x += 158
        self.figure.set_dpi(DPI)
        self.figure.canvas.draw()
        pixels = np.asarray(self.figure.canvas.buffer_rgba())[..., :3]  # type: ignore[attr-defined]
        image = Image.fromarray(np.ascontiguousarray(pixels)).quantize(COLOURS, dither=Image.Dither.NONE)
        image.save(HERE / f"{name}.png", optimize=True)
        plt.close(self.figure)


def residual(p: Picture, start: float, y: float, over: float, plus: Box) -> None:
    """The way around a layer, from the line at `start` to its sum."""
    p.arrow((start, y), (start, over), (plus.x, over), plus.top)


def block(name: str, layer: str, kind: str, below: str) -> None:
    """A pre-norm block: a sequence layer, then a feed-forward layer."""
    p = Picture(190)
    y, over = 112, 160
    start, finish = p.end(14, y, "h"), p.end(586, y, "h")
    first = p.box(72, y, "norm", w=48)
    mixer = p.box(188, y, layer, kind, w=134, h=46)
    plus = p.sign(288, y, "+")
    second = p.box(350, y, "norm", w=48)
    feed = p.box(440, y, "SwiGLU", w=74)
    last = p.sign(520, y, "+")
    p.row(start, first, mixer, plus, second, feed, last, finish)
    residual(p, 34, y, over, plus)
    residual(p, 312, y, over, last)
    p.text(188, 62, below, size=8)
    p.save(name)


def memory_layer(
    name: str, *, project: str, gates: str, memory: str, rule: str, output: str, height: int = 250
) -> None:
    """A layer around one memory: queries read it, keys and values write it."""
    p = Picture(height)
    top, low = height - 52, 92
    middle = (top + low) / 2 + 8
    x, y = p.end(12, top, "x"), p.end(588, top, "y")
    made = p.box(106, top, project, w=140, h=46)
    held = p.box(296, top, memory, "fast", w=146, h=50)
    out = p.box(486, top, output, w=126, h=46)
    written = p.box(304, low, rule, "plain", w=336, h=62)
    p.row(x, made)
    p.arrow(made.right, held.left)
    p.text(199, top + 11, "q")
    p.arrow(held.right, out.left)
    p.arrow(out.right, y.left)
    p.arrow((112, made.bottom[1]), (112, low + 16), (written.left[0], low + 16))
    p.text(128, middle - 14, "k, v")
    if gates:
        made_gates = p.box(52, middle - 22, gates, w=88, h=46)
        p.arrow((24, top), (24, made_gates.top[1]))
        p.arrow((52, made_gates.bottom[1]), (52, low - 16), (written.left[0], low - 16))
    p.arrow((296, written.top[1]), held.bottom, write=True)
    p.text(304, (written.top[1] + held.bottom[1]) / 2, "write", size=8, align="left", colour=WRITE)
    p.save(name)


def titans_mac() -> None:
    p = Picture(286)
    y = 150
    x, o = p.end(12, y, "x"), p.end(588, y, "o")
    ask = p.box(82, 236, "query: $W$,\nshort conv", w=76, h=42)
    recall = p.box(176, 236, "$M$ as before\nthe segment", "fast", w=96, h=42)
    always = p.box(70, 76, "persistent\ntokens", w=84, h=40)
    attention = p.box(
        232, y, "attention over\n[ persistent | h | x ]\nof this segment", "tokens", w=136, h=60
    )
    norm = p.box(338, y, "norm", w=46)
    memory = p.box(404, 236, "$M$, written\nwith $y$", "fast", w=92, h=42)
    gate = p.box(504, 236, "norm, $\\sigma$", w=72)
    times = p.sign(540, y, "×")
    p.arrow(x.right, attention.left)
    p.arrow((28, y), (28, 236), ask.left)
    p.arrow(ask.right, recall.left)
    p.arrow((210, recall.bottom[1]), (210, attention.top[1]))
    p.text(222, 198, "h")
    p.arrow(always.right, (200, 76), (200, attention.bottom[1]))
    p.row(attention, norm, times, o)
    p.text(440, y + 11, "y")
    p.arrow((374, y), (374, memory.bottom[1]))
    p.arrow(memory.right, gate.left)
    p.arrow((540, gate.bottom[1]), times.top)
    p.arrow((404, memory.top[1]), (404, 272), (176, 272), recall.top, write=True)
    p.text(290, 263, "at the segment's end", size=8, colour=WRITE)
    p.text(
        420,
        66,
        "segments of 64 tokens; token j sees\n$h_1 \\ldots h_j$ and $x_1 \\ldots x_j$ of its segment",
        size=8,
    )
    p.save("titans_mac")


def titans_mag() -> None:
    p = Picture(220)
    high, low = 176, 88
    x, o = p.end(12, 132, "x"), p.end(588, 132, "o")
    p.arrow(x.right, (28, 132), head=False)
    always = p.box(88, 132, "persistent\ntokens", w=84, h=40)
    attention = p.box(250, high, "attention over a\nsliding window", "tokens", w=130, h=44)
    memory = p.box(250, low, "Titans memory,\nwritten with x", "fast", w=130, h=44)
    first = p.box(374, high, "norm", w=52)
    second = p.box(374, low, "norm", w=52)
    sigma = p.box(446, low, "$\\sigma$", w=40)
    times = p.sign(520, 132, "×")
    p.arrow((28, 132), (28, high), attention.left)
    p.arrow((28, 132), (28, low), memory.left)
    p.arrow((152, 132), (152, high - 12), (attention.left[0], high - 12))
    p.arrow((152, 132), (152, low + 12), (memory.left[0], low + 12))
    p.arrow(always.right, (152, 132), head=False)
    p.row(attention, first)
    p.arrow(first.right, (520, high), times.top)
    p.row(memory, second, sigma)
    p.arrow(sigma.right, (520, low), times.bottom)
    p.row(times, o)
    p.text(160, high - 34, "in view everywhere", size=8, align="left")
    p.text(160, low + 34, "read first", size=8, align="left")
    p.save("titans_mag")


def titans_mal() -> None:
    p = Picture(190)
    y, over = 104, 160
    x, o = p.end(12, y, "x"), p.end(588, y, "o")
    memory = p.box(112, y, "Titans memory,\nwritten with x", "fast", w=118, h=46)
    plus = p.sign(222, y, "+")
    norm = p.box(286, y, "norm", w=50)
    attention = p.box(398, y, "attention over a\nsliding window", "tokens", w=122, h=46)
    last = p.sign(520, y, "+")
    p.row(x, memory, plus, norm, attention, last, o)
    residual(p, 30, y, 140, plus)
    p.arrow((192, y), (192, over), (520, over), last.top)
    p.text(WIDTH / 2, 54, "persistent tokens are the first of the sequence, for both", size=8)
    p.save("titans_mal")


def self_modifying() -> None:
    p = Picture(330)
    x, y = p.end(12, 180, "x"), p.end(588, 290, "y")
    conv = p.box(74, 180, "short conv,\nunit length", w=84, h=42)
    places = {"$M_{keys}$": 246, "$M_{values}$": 202, "$M_{rate}$": 158, "$M_{decay}$": 114}
    says = ("k", "v", "rate", "decay")
    query = p.box(204, 290, "$W_q$, unit length", w=104, h=32)
    read = p.box(338, 290, "$M_{memory}$", "fast", w=86, h=32)
    out = p.box(484, 290, "norm, gate, $W_o$", w=108, h=32)
    p.row(x, conv)
    p.row(query, read, out, y)
    p.text(270, 301, "q")
    p.arrow(conv.right, (132, 180), head=False)
    p.arrow((132, 114), (132, 290), head=False)
    p.arrow((132, 290), query.left)
    rule = p.box(
        448,
        180,
        "every memory, by its own target:\n$W$ ← (decay − rate $n^T n$) $W$\n− rate ∇ ½‖$M(k) - M(v)$‖²",
        "plain",
        w=214,
        h=76,
    )
    for (name, at), said in zip(places.items(), says, strict=True):
        memory = p.box(204, at, name, "fast", w=82, h=32)
        p.arrow((132, at), memory.left)
        p.arrow(memory.right, (312, at), head=False)
        p.text(278, at + 9, said, size=8)
    p.arrow((312, 114), (312, 246), head=False)
    p.arrow((312, 180), rule.left)
    p.arrow((448, rule.top[1]), (448, 252), (338, 252), read.bottom, write=True)
    p.arrow((448, rule.bottom[1]), (448, 74), (204, 74), (204, 92), write=True)
    p.arrow((156, 92), (252, 92), (252, 268), (156, 268), (156, 92), write=True, head=False)
    p.text(326, 64, "write all five, at the state before the chunk", size=8, colour=WRITE)
    p.text(352, 266, "write", size=8, align="left", colour=WRITE)
    p.save("self_modifying")


PERIODS = ("every 64 tokens", "every 256 tokens", "never")
WRITES = ([i / 8 for i in range(1, 9)], [0.5, 1.0], [])


def continuum(name: str, *, nested: bool = False) -> None:
    p = Picture(232)
    y, over = 160, 206
    x, out = p.end(12, y, "x"), p.end(588, y, "z")
    before = x
    for i, at in enumerate((92, 276, 460)):
        kind = "fixed" if i == 2 else "fast"
        norm_at = at - 46
        norm = p.box(norm_at, y, "norm", w=42, h=30) if i else None
        mlp = p.box(at + 14, y, f"MLP {i + 1}", kind, w=62, h=36)
        plus = p.sign(at + 76, y, "+")
        if norm is None:
            p.row(before, mlp, plus)
        else:
            p.row(before, norm, mlp, plus)
        residual(p, at - 62 if not i else at - 84, y, over, plus)
        again = [0.5, 1.0] if nested and i == 0 else []
        writes = [w for w in WRITES[i] if w not in again]
        p.ticks(at + 14, 96, 120, writes, again)
        p.text(at + 14, 76, PERIODS[i], size=8)
        if WRITES[i]:
            p.arrow((at + 14, 104), mlp.bottom, write=True)
        before = plus
    p.row(before, out)
    if nested:
        p.arrow((220, 96), (174, 96), write=True)
        again = "◇ starts again, from initial weights\nthat are learned at the pace of level 2"
        p.text(24, 50, again, size=8, align="left", colour=WRITE)
    else:
        p.text(106, 50, "| a write", size=8, colour=WRITE)
    p.text(430, 50, "512 tokens of time; $y = z - x$", size=8)
    p.save(name)


def continuum_independent() -> None:
    p = Picture(262)
    x, y = p.end(12, 162, "x"), p.end(588, 162, "y")
    total = p.sign(500, 162, "+")
    p.arrow(x.right, (48, 162), head=False)
    p.arrow((48, 94), (48, 230), head=False)
    for i, at in enumerate((230, 162, 94)):
        kind = "fixed" if i == 2 else "fast"
        mlp = p.box(120, at, f"MLP {i + 1}", kind, w=70, h=34)
        share = p.box(440, at, f"× $a_{i + 1}$", w=50, h=28)
        p.arrow((48, at), mlp.left)
        p.arrow(mlp.right, share.left)
        p.ticks(286, at - 16, 160, WRITES[i])
        p.text(286, at - 31, PERIODS[i], size=8)
        p.arrow(share.right, (500, at), (500, 162 + 8 * np.sign(at - 162)) if at != 162 else total.left)
    p.row(total, y)
    p.text(470, 44, "512 tokens of time, | a write", size=8, colour=WRITE)
    p.save("continuum_independent")


def hope(name: str, layer: str, kind: str) -> None:
    p = Picture(250)
    y, over = 160, 220
    start, finish = p.end(14, y, "h"), p.end(586, y, "h")
    first = p.box(64, y, "norm", w=44)
    mixer = p.box(152, y, layer, kind, w=100, h=46)
    plus = p.sign(232, y, "+")
    second = p.box(284, y, "norm", w=44)
    boxes = []
    for i, period in enumerate(("64", "256", "never")):
        boxes.append(p.box(348 + 64 * i, y, f"MLP\n{period}", "fixed" if i == 2 else "fast", w=50, h=44))
    last = p.sign(544, y, "+")
    p.row(start, first, mixer, plus, second, *boxes, last, finish)
    residual(p, 30, y, over, plus)
    residual(p, 252, y, over, last)
    p.text(410, 200, "continuum memory: tokens between writes", size=8)
    loss = p.box(
        412, 76, "the model's next-token loss, or\nkeys and values of the level's own", "plain", w=226, h=44
    )
    for mlp in boxes[:2]:
        p.arrow((mlp.x, loss.top[1]), mlp.bottom, write=True)
    if kind == "fast":
        own = p.box(146, 76, "keys, values, rates and\ntargets of its own making", "plain", w=168, h=44)
        p.arrow((mixer.x, own.top[1]), mixer.bottom, write=True)
    p.save(name)


def ttt_e2e() -> None:
    p = Picture(270)
    y, over = 180, 236
    start = p.end(14, y, "h")
    lower = p.box(76, y, "first ¾ of\nthe blocks", "tokens", w=76, h=46)
    window = p.box(182, y, "window\nattention", "tokens", w=68, h=46)
    one = p.sign(240, y, "+")
    prime = p.box(302, y, "prime\nMLP", "fast", w=60, h=46)
    two = p.sign(358, y, "+")
    feed = p.box(422, y, "SwiGLU", w=62, h=46)
    three = p.sign(480, y, "+")
    head = p.box(542, y, "norm,\nhead", w=54, h=46)
    p.row(start, lower, window, one, prime, two, feed, three, head)
    residual(p, 131, y, over, one)
    residual(p, 259, y, over, two)
    residual(p, 378, y, over, three)
    p.text(310, 250, "each of the last ¼ of the blocks (norms left out)", size=8)
    loss = p.box(542, 96, "next-token\nloss", "plain", w=76, h=42)
    p.arrow(head.bottom, loss.top)
    p.arrow(loss.left, (302, 96), prime.bottom, write=True)
    p.text(392, 108, "its gradient, every 128 tokens", size=8, colour=WRITE)
    p.text(
        182,
        62,
        "the start of the prime MLP is learned\nthrough the writes (a gradient of a gradient)",
        size=8,
    )
    p.save("ttt_e2e")


FIGURES: tuple[Callable[[], None], ...] = (
    lambda: block(
        "attention",
        "attention: q, k, v,\nrotary, softmax, $W_o$",
        "tokens",
        "keys and values kept:\nof all tokens, or of the last 128 (window)",
    ),
    lambda: memory_layer(
        "retention",
        project="$W_q, W_k, W_v$\nrotary on q, k",
        gates="",
        memory="matrix $S$ per head\n$y = q\\,S$",
        rule="$S$ ← decay $S + k^T v$\ndecay fixed for each head",
        output="norm, gate, $W_o$",
    ),
    lambda: memory_layer(
        "delta",
        project="$W_q, W_k, W_v$\nshort conv, unit q, k",
        gates="rate\n(decay)",
        memory="matrix $S$ per head\n$y = q\\,S$",
        rule="$S$ ← decay $(I - $rate$\\,k^T k)\\,S\\; + $ rate$\\,k^T v$\n"
        "erase what $k$ says, then write $v$; decay: gated",
        output="norm, gate, $W_o$",
    ),
    lambda: memory_layer(
        "ttt",
        project="$W_q, W_k, W_v$\nrotary in the chunk",
        gates="rate",
        memory="$f(q) = q + $LN(MLP$(q)$)\nor one matrix",
        rule="gradient of ½‖$f(k) - v$‖² at the weights\nbefore the chunk of 16, summed up to the token",
        output="LayerNorm, $W_o$",
    ),
    lambda: memory_layer(
        "titans_lmm",
        project="$W_q, W_k, W_v$\nshort conv, unit q, k",
        gates="rate, decay,\nmomentum",
        memory="$M(q) = q + $LN(MLP$(q)$)\none for each head",
        rule="surprise ← momentum · surprise − rate ∇‖$M(k) - v$‖²\n$M$ ← decay · $M$ + surprise",
        output="norm, gate, $W_o$",
    ),
    titans_mac,
    titans_mag,
    titans_mal,
    self_modifying,
    lambda: continuum("continuum_sequential"),
    lambda: continuum("continuum_nested", nested=True),
    continuum_independent,
    lambda: hope("hope", "self-modifying\nTitans", "fast"),
    lambda: hope("hope_attention", "attention", "tokens"),
    ttt_e2e,
)


def main() -> None:
    """Draw all of them."""
    HERE.mkdir(exist_ok=True)
    for draw in FIGURES:
        draw()
    for path in sorted(HERE.glob("*.png")):
        print(f"{path.name}: {path.stat().st_size / 1024:.1f} KB")


if __name__ == "__main__":
    main()
