import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from longspan.errors import BadInput
from longspan.ops.flash.naive import naive_attention
from longspan.ops.page_digest import PageDigest, top_pages
from longspan.ops.selection import Selection
from longspan.ops.sparse_decode import decode, gather


def store(entries, room, heads=2, dim=8, seed=0):
    """K and V as a store keeps them: a view of a larger buffer, whose rest is poison."""
    generator = torch.Generator().manual_seed(seed)
    buffers = torch.full((2, heads, entries + room, dim), torch.nan)
    buffers[:, :, :entries] = torch.randn(2, heads, entries, dim, generator=generator)
    return buffers[0, :, :entries], buffers[1, :, :entries]


def random_selection(heads, entries, page_size, ragged, seed):
    generator = torch.Generator().manual_seed(seed)
    pages = -(-entries // page_size)
    count = max(1, pages // 2)
    sizes = [
        int(torch.randint(0, pages + 1, (), generator=generator)) if ragged else count for _ in range(heads)
    ]
    return Selection.from_lists(
        [torch.randperm(pages, generator=generator)[:n] for n in sizes], entries, page_size
    )


@torch.inference_mode()
@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(["reference", "gather"]),
    st.integers(4, 90),
    st.sampled_from([0, 3, 16, 40]),
    st.integers(1, 4),
    st.sampled_from([2, 6]),
    st.sampled_from([1, 4, 16]),
    st.booleans(),
    st.integers(0, 99),
)
@example(
    backend="gather", entries=17, room=0, rows=2, heads=2, page_size=4, ragged=False, seed=2
)  # every head's last page is the cut one
def test_backends_equal_the_dense_mask(backend, entries, room, rows, heads, page_size, ragged, seed):
    k, v = store(entries, room, seed=seed)
    q = torch.randn(6, rows, 8, generator=torch.Generator().manual_seed(seed + 1))
    selection = random_selection(heads, entries, page_size, ragged, seed)
    out, lse = decode(q, k, v, selection, backend=backend)
    visible = selection.dense().repeat_interleave(6 // heads, 0).unsqueeze(1)
    visible = visible & (torch.arange(entries) <= torch.arange(rows).unsqueeze(1) + entries - rows)
    expected, expected_lse = naive_attention(q, k, v, scale=8**-0.5, mask=visible)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(lse, expected_lse, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_everything_selected_is_dense_attention():
    k, v = store(75, 5)
    q = torch.randn(6, 1, 8, generator=torch.Generator().manual_seed(1))
    dense = torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None], enable_gqa=True)[0]
    for page_size in (1, 16):
        out, _ = decode(q, k, v, Selection.full(2, 75, page_size))
        torch.testing.assert_close(out, dense, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("room", [0, 7, 16])
def test_gather_copies_what_was_selected_and_no_more(room):
    k, v = store(70, room)
    selection = Selection(torch.tensor([[0, 2, 4], [1, 3, 4]]), 70, 16)  # page 4 holds 6 entries
    keys, values, numbers = gather(k, v, selection)
    assert numbers is None
    moved = (keys.numel() + values.numel()) * keys.element_size()
    assert moved == selection.bytes_read(dim=8, itemsize=4)
    assert torch.equal(keys[1], torch.cat([k[1, 16:32], k[1, 48:70]]))


@torch.inference_mode()
@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 99), st.sampled_from([1, 5, 16]))
def test_digest_grown_in_steps_equals_recomputed(steps, seed, page_size):
    k, _ = store(sum(steps), 9, seed=seed)
    grown, reached = PageDigest(page_size), 0
    for step in steps:
        reached += step
        grown.update(k[:, :reached])
    once = PageDigest(page_size)
    once.update(k)
    assert torch.equal(grown.bounds, once.bounds) and grown.pages == once.pages
    cut = reached - reached // 3
    grown.truncate(k[:, :cut])
    again = PageDigest(page_size)
    again.update(k[:, :cut])
    assert torch.equal(grown.bounds, again.bounds)
    assert grown.bytes() == 2 * 2 * -(-cut // page_size) * 8 * 4


@torch.inference_mode()
def test_page_score_bounds_every_logit_and_is_exact_for_single_entries():
    k, _ = store(83, 0)
    q = torch.randn(6, 2, 8, generator=torch.Generator().manual_seed(5))
    logits = torch.einsum("hgrd,htd->hgrt", q.view(2, 3, 2, 8), k).reshape(6, 2, 83)
    digest = PageDigest(16)
    digest.update(k)
    scores = digest.scores(q, reduce="none")
    best = torch.nn.functional.pad(logits, (0, 13), value=-torch.inf).unflatten(-1, (6, 16)).amax(-1)
    assert (scores >= best - 1e-5).all()
    paged = torch.nn.functional.pad(k, (0, 0, 0, 13), value=torch.nan).unflatten(1, (6, 16))
    low = paged.nan_to_num(torch.inf).amin(2).repeat_interleave(3, 0).unsqueeze(1)
    high = paged.nan_to_num(-torch.inf).amax(2).repeat_interleave(3, 0).unsqueeze(1)
    definition = torch.maximum(q.unsqueeze(2) * low, q.unsqueeze(2) * high).sum(-1)
    torch.testing.assert_close(scores, definition, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(digest.scores(q), definition.view(2, 6, -1).sum(1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        digest.scores(q, "max"), definition.view(2, 6, -1).amax(1), atol=1e-5, rtol=1e-5
    )
    single = PageDigest(1)
    single.update(k)
    torch.testing.assert_close(single.scores(q, "none"), logits, atol=1e-5, rtol=1e-5)


def test_top_pages_keeps_what_must_stay():
    scores = torch.tensor([[5.0, 1, 4, 3, 0, 2], [0, 5, 4, 3, 2, 1]])
    assert top_pages(scores, 3, 90, 16, sink_pages=1).indices.tolist() == [[0, 2, 5], [0, 1, 5]]
    assert top_pages(scores, 2, 90, 16, recent_pages=0).indices.tolist() == [[0, 2], [1, 2]]
    assert top_pages(scores, 99, 90, 16).entry_counts().tolist() == [90, 90]


def test_bytes_read_are_a_share_of_the_dense_bytes():
    k, _ = store(4096, 0, dim=64)
    digest = PageDigest(16)
    digest.update(k)
    selection = top_pages(
        digest.scores(torch.randn(6, 1, 64, generator=torch.Generator().manual_seed(0))), 16, 4096, 16
    )
    read = selection.bytes_read(64, 4) + digest.bytes()
    assert read / (2 * k.numel() * 4) == 1 / 16 + 1 / 16


def test_bad_input_is_one_sentence():
    k, v = store(40, 0)
    q = torch.zeros(6, 1, 8)
    with pytest.raises(BadInput, match="over 30 entries"):
        decode(q, k, v, Selection.full(2, 30))
    with pytest.raises(BadInput, match="3 heads"):
        decode(q, k, v, Selection.full(3, 40))
    with pytest.raises(BadInput, match="did you mean"):
        decode(q, k, v, Selection.full(2, 40), backend="gater")
    digest = PageDigest()
    digest.update(k)
    with pytest.raises(BadInput, match="truncate"):
        digest.update(k[:, :10])
