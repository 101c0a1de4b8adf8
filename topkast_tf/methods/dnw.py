"""DNW: Top-KAST whose backward set is everything."""

from topkast_tf.methods.registry import register_setting
from topkast_tf.methods.topkast import TopKAST


@register_setting
def dnw(
    *, sparsity: float, refresh_every: int = 1, total_steps: int | None = None
) -> TopKAST:
    """Discovering neural wirings (Wortsman et al. 2019): Top-KAST without its two limits.

    ``A = top_s(|theta|)`` in each step, and the gradient of alpha updates every entry::

        TopKAST(fwd=sparsity, bwd=0, exploration=0)

    Args:
      sparsity: of A, in [0, 1).
      refresh_every: steps between two selections; 1 in the source.
      total_steps: as for `topkast_scope`.

    >>> dnw(sparsity=0.9).bwd
    0.0

    Source: `conv_type.py` of STR's authors' code (`DNWConv`), with ordinary weight decay
    and momentum on all entries.
    """
    return TopKAST(
        fwd=sparsity,
        bwd=0.0,
        exploration=0.0,
        refresh_every=refresh_every,
        total_steps=total_steps,
    )
