"""Tables in Markdown."""

import pytest

from mmatm.utils.markdown import table


def test_a_table():
    assert table(['a', ''], [['x|y', 1.5]]) == '| a |  |\n| --- | --- |\n| x\\|y | 1.5 |'


def test_columns_in_line():
    lines = table(['name', 'ms'], [['a', 12], ['longer', 3]], aligned=True).splitlines()
    assert lines == ['| name   | ms  |', '| ------ | --- |', '| a      | 12  |', '| longer | 3   |']


def test_every_row_has_a_cell_for_each_column():
    with pytest.raises(ValueError, match='zip'):
        table(['a', 'b'], [['x']])
