"""Our own modules whose classes derive from those of torch, each imported when it is first used.

As ``analysis.late`` has packages: what reads recipes and stored runs does not wait for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.late import Late

if TYPE_CHECKING:
    from slicing import modeling_bridged as modeling_bridged
    from slicing import modeling_decoder as modeling_decoder
    from slicing import modeling_narrow as modeling_narrow
    from slicing import modeling_sliced as modeling_sliced
    from slicing.healing import adapter as adapter
    from slicing.inner import row_policy as row_policy
else:
    modeling_bridged = Late("slicing.modeling_bridged")
    modeling_decoder = Late("slicing.modeling_decoder")
    modeling_narrow = Late("slicing.modeling_narrow")
    modeling_sliced = Late("slicing.modeling_sliced")
    adapter = Late("slicing.healing.adapter")
    row_policy = Late("slicing.inner.row_policy")
