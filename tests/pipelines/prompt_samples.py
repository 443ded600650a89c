"""A thousand different prompts, the same on every machine, for tests of tokenizers."""

from __future__ import annotations

import random

_TEXT = r"""
a an the of with and on in under beside cat fox owl castle knight dragon astronaut neon rainforest
teapot bicycle highly detailed masterpiece best quality 8k uhd f/1.8 85mm bokeh unreal engine octane
greg rutkowski trending artstation hyperrealistic chiaroscuro photorealistic cinematic lighting
volumetric isometric low-poly voxel watercolour gouache don't it's we're they've I'm she'll he'd
rock'n'roll o'clock 1girl 2boys year 1984 12:30 16:9 3.14 100% #1 @home $5 “quoted” it’s ﬁne ＦＵＬＬ
café naïve Zürich São Paulo Ångström smörgåsbord jalapeño façade Besançon Łódź Dvořák İstanbul
straße кошка в шляпе собака зимний лес γάτα θάλασσα 猫 富士山 桜 고양이 바다 قطة بحر חתול แมว बिल्ली 🦊 🦉 👩‍🚀
🏳️‍🌈 ❤ ★ → ∞ ½ ² ™ © … — – • ° × ÷ supercalifragilisticexpialidocious antidisestablishmentarianism
ALLCAPS CamelCase snake_case kebab-case (paren) [bracket] {brace} <tag> a|b a/b a\b ^_^ :-) ;) !!!
??? ,,, ... ~* +=& " ' `
"""

WORDS = _TEXT.split()


def sample_prompts(count: int = 1000) -> list[str]:
    """Prompts of up to 40 words, joined by blanks, commas, tabs, line ends and nothing."""
    draw = random.Random(16)
    prompts = ["", " ", "a photo of a cat", "\ta\n\nfox  ", "a"]
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJ0123456789éüßøñ-_'.,:;!?()"
    while len(prompts) < count:
        words = [
            "".join(draw.choice(letters) for _ in range(draw.randint(1, 14)))
            if draw.random() < 0.2
            else draw.choice(WORDS)
            for _ in range(draw.randint(1, 40))
        ]
        glue = draw.choice([" ", " ", " ", ", ", "  ", "\n", "\t", ""])
        prompts.append(glue.join(words))
    return prompts
