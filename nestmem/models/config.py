"""What a model is made of, as a Hugging Face config: one class for every architecture and every hybrid of them."""

from __future__ import annotations

from typing import Any

from transformers.configuration_utils import PreTrainedConfig

from nestmem.errors import InputError

# Of checkpoints. A model whose computation changes gets the next number; older ones are then refused.
FORMAT = 1

MIXERS = (
    "attention",
    "window",
    "retention",
    "deltanet",
    "gated_deltanet",
    "ttt_linear",
    "ttt_mlp",
    "titans",
    "titans_mac",
    "titans_mag",
    "titans_mal",
    "self_modifying",
)
FEED_FORWARDS = ("swiglu", "continuum", "none")
PRIME = ("share", "intermediate_size", "period", "rate", "clip", "decay", "momentum", "average", "optimizer")


class NestmemConfig(PreTrainedConfig):
    """A stack of blocks, each a sequence layer and a feed-forward layer around residual connections.

    vocab_size, hidden_size, num_hidden_layers, num_attention_heads: as everywhere; the width is a multiple of heads
    pattern               kinds of the sequence layers (`MIXERS`), repeated over the depth: a hybrid of three memory
                          layers to one of attention is ["titans", "titans", "titans", "attention"]
    feed_forward          "swiglu"; "continuum", several levels with periods of their own (Hope's CMS); or "none"
    intermediate_size     columns of the feed-forward layer; None: 8/3 of the width, rounded up to a multiple of 8
    options               kind -> keyword arguments of its layer, such as {"titans": {"chunk": 32}}
    prime                 options of a second, written MLP in the last blocks (TTT-E2E), or None: {"share": 0.25,
                          "period": 1024, "rate": 1.0, "clip": 1.0, "intermediate_size": None}
    post_norm             a norm behind every sublayer too, as in TTT-E2E
    max_position_embeddings   the longest context in tokens, refused beyond; None: any
    """

    model_type = "nestmem"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012

    vocab_size: int = 256
    hidden_size: int = 128
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    intermediate_size: int | None = None
    pattern: list[str] | None = None
    feed_forward: str = "swiglu"
    options: dict[str, dict[str, Any]] | None = None
    prime: dict[str, Any] | None = None
    post_norm: bool = False
    max_position_embeddings: int | None = None
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
    use_cache: bool = True
    format_version: int = FORMAT
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.pattern = ["attention"] if self.pattern is None else list(self.pattern)
        self.options = {} if self.options is None else self.options
        if self.intermediate_size is None:
            self.intermediate_size = -(-self.hidden_size * 8 // 3 // 8) * 8
        self._check()
        super().__post_init__(**kwargs)
        # Whoever has a config can make the model by AutoModelForCausalLM.
        from nestmem.models.hub import register_model

        register_model()

    def _check(self) -> None:
        sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        for name in sizes:
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{name} is a whole number, at least 1; got {value!r}")
        if self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"hidden_size is a multiple of num_attention_heads; got {self.hidden_size} and "
                f"{self.num_attention_heads}"
            )
        assert self.pattern is not None and self.options is not None
        unknown = sorted({kind for kind in self.pattern if kind not in MIXERS})
        if unknown or not self.pattern:
            raise InputError(f"pattern is a list of {', '.join(MIXERS)}; got {unknown or self.pattern}")
        if self.feed_forward not in FEED_FORWARDS:
            raise InputError(f"feed_forward is one of {', '.join(FEED_FORWARDS)}; got {self.feed_forward!r}")
        here = [*dict.fromkeys(self.pattern), *(["continuum"] if self.feed_forward == "continuum" else [])]
        strange = sorted(set(self.options) - set(here))
        if strange:
            raise InputError(f"options are for the layers of this model, {', '.join(here)}; got {strange}")
        if self.prime is not None:
            self._check_prime(self.prime)
        if self.format_version != FORMAT:
            raise InputError(
                f"this is a model of format {self.format_version}, and this nestmem reads format {FORMAT}; load it "
                "with the nestmem that saved it"
            )

    @staticmethod
    def _check_prime(prime: dict[str, Any]) -> None:
        unknown = sorted(set(prime) - set(PRIME))
        if unknown:
            raise InputError(f"prime has {', '.join(PRIME)}; got {', '.join(unknown)}")
        if "period" not in prime:
            raise InputError(f"prime needs a period in tokens, such as 1024; got {prime}")
        share = prime.get("share", 0.25)
        if not 0 < share <= 1:
            raise InputError(f"prime's share of the blocks is above 0 and at most 1; got {share}")

    def kinds(self) -> list[str]:
        """The kind of each block's sequence layer.

        >>> NestmemConfig(num_hidden_layers=5, pattern=["titans", "attention"]).kinds()
        ['titans', 'attention', 'titans', 'attention', 'titans']
        """
        assert self.pattern is not None
        return [self.pattern[i % len(self.pattern)] for i in range(self.num_hidden_layers)]

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As transformers', but a config of another architecture is refused."""
        kind = config_dict.get("model_type", cls.model_type)
        if kind != cls.model_type:
            raise InputError(
                f"this is a checkpoint of architecture {kind!r}, not {cls.model_type!r}; load it with "
                "transformers.AutoModelForCausalLM"
            )
        return super().from_dict(config_dict, **kwargs)
