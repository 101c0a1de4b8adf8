"""The model summary: its counts, its text and its notebook table."""

import html.parser

import keras
import numpy as np

import topkast_tf as tk
from tests.small_models import dense_layer, scope, three_layers
from topkast_tf.analysis.summary import Summary, WeightRow


def test_frozen_layers_are_counted():
    with scope():
        model = three_layers()
    model.trainable = False
    table = tk.summary(model)
    assert (table.kept_parameters, table.dense_parameters) == (140, 1400)


def test_nothing_is_sparse_in_a_dense_model():
    assert tk.summary(three_layers()).forward_sparsity == 0.0


def test_summary_counts_what_the_forward_pass_uses():
    with scope():
        model = three_layers()
    table = tk.summary(model)
    effective = sum(int((w.effective() != 0).sum()) for w in tk.sparse_weights(model))
    assert effective == 60 + 60 + 20 == sum(row.kept for row in table.rows)
    assert table.dense_parameters == 1400 + 60
    assert table.kept_parameters == 140 + 60
    assert table.state_bytes == 1400 + 3 * 64
    np.testing.assert_allclose(table.forward_sparsity, 0.9)
    np.testing.assert_allclose(table.backward_sparsity, 0.8)
    assert "140" in str(table) and "1,400" in str(table)


def test_outputs_without_an_entry_are_counted():
    # Of three columns one has no entry among the two largest of six.
    model, _ = dense_layer([[4.0, 0.1, 3.0], [0.2, 0.3, 0.4]], fwd=0.6, bwd=0.0)
    [row] = tk.summary(model).rows
    assert (row.outputs, row.empty_outputs) == (3, 1)
    text = str(tk.summary(model))
    assert "outputs without an entry in A (`compact` removes what it can):" in text
    assert f"  {row.path}: 1 of 3" in text.splitlines()
    assert "1 of 3" in tk.summary(model)._repr_html_()


def test_einsums_have_their_outputs_where_their_equation_says():
    with tk.topkast_scope(0.6, 0.0):
        layer = keras.layers.EinsumDense("ab,cb->ac", output_shape=3)
        model = keras.Sequential([keras.Input((2,)), layer])
    layer.kernel.assign([[4.0, 0.2], [0.1, 0.3], [3.0, 0.4]])
    [row] = tk.summary(model).rows
    assert (row.outputs, row.empty_outputs) == (3, 1)


def test_summary_explains_reads_of_theta_and_alpha():
    with scope():
        model = three_layers()
    text = str(tk.summary(model))
    assert "`kernel.numpy()` show theta;" in text
    assert "`sparse_weights(model)[i].effective()` and `strip` show alpha" in text
    assert max(map(len, text.splitlines())) <= 100
    assert np.all(model.layers[0].kernel.numpy() != 0)  # as the line says
    assert "theta" not in str(tk.summary(three_layers()))


class _Tables(html.parser.HTMLParser):
    """Reads the text of the cells, and the text between the tables."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tables, self.between = [], [], []
        self.feed(text)
        assert not self.open  # every element is closed

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("th", "td"):
            self.tables[-1][-1][-1] += data
        elif data.strip():
            self.between.append(data)


def test_summary_is_a_table_in_a_notebook():
    keras.utils.set_random_seed(0)  # with an empty output
    with scope(exempt="d20"):
        model = three_layers()
    table = tk.summary(model)
    page = _Tables(table._repr_html_())
    sparse, empty, dense = page.tables
    assert [cells[0] for cells in empty[1:]] == [
        row.path for row in table.rows if row.empty_outputs
    ]
    assert empty[1][1].endswith(" of 30")
    header, *rows, total = sparse
    assert header[2:] == ["fwd", "achieved", "bwd", "achieved", "kept", "dense"]
    assert [row[0] for row in rows] == [row.path for row in table.rows]
    assert rows[0][1:] == ["20x30", "0.9", "0.9000", "0.8", "0.8000", "60", "600"]
    assert total[3:] == ["0.9000", "", "0.8000", "80", "800"]
    [(path, shape, why)] = table.left_dense
    assert dense[1:] == [[path, "x".join(map(str, shape)), why]]
    totals, zeros = page.between
    assert totals in str(table)
    assert zeros in str(table).replace("\n", " ")


def test_paths_are_escaped_in_a_notebook():
    path = '<script>alert("1 & 2")</script>'
    row = WeightRow(path, (2, 2), 0.5, 0.5, 0.5, 0.5, 2, 4)
    text = Summary((row,), ((path, (2, 2), path),), 4, 2, 0)._repr_html_()
    assert "<script" not in text
    sparse, dense = _Tables(text).tables
    assert sparse[1][0] == dense[1][0] == dense[1][2] == path
