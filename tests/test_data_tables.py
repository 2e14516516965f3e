"""Annotation tables: what is wrong is said with the file and the line."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from interp_cnn.data.tables import file_below, numbers, read_table


def written(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
    return path


def test_lines_are_numbered_as_in_the_file_and_blank_ones_left_out(tmp_path):
    table = read_table(written(tmp_path, "file,x\na,1\n\nb,NA\nc\n"), ["file", "x"])
    assert table.index.tolist() == [2, 4, 5]
    assert table["file"].tolist() == ["a", "b", "c"] and table["x"].tolist() == ["1", "NA", ""]


def test_a_byte_order_mark_and_spaces_in_the_header_do_no_harm(tmp_path):
    table = read_table(written(tmp_path, "\ufefffile , x\na,1\n"), ["file", "x"])
    assert table["x"].tolist() == ["1"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "not a CSV table"),
        ("file,x\n", "a header and no row"),
        ("files,x\na,1\n", r"t.csv, line 1: no column 'file'; nearest: files; the table has files, x"),
        ("file,x\na,1,2\n", "not a CSV table"),
        (b"file,x\n\xff\xfe,1\n", "not a CSV table"),
        ('file,x\n"a,1\n', "not a CSV table"),
    ],
)
def test_what_is_no_such_table_is_refused(tmp_path, text, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        read_table(written(tmp_path, text), ["file", "x"])
    assert "\n" not in str(caught.value)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.csv: no such annotation file"):
        read_table(tmp_path / "none.csv", [])


@pytest.mark.parametrize("value", ["abc", "nan", "inf", "1,5", "0x10"])
def test_text_where_a_number_belongs_is_refused_with_its_line(tmp_path, value):
    path = written(tmp_path, f'file,x\na,1\nb,\nc,"{value}"\n')
    table = read_table(path, ["x"])
    with pytest.raises(ValueError, match=r"t\.csv, line 4: x is .*, expected a number"):
        numbers(table, "x", path)


@pytest.mark.parametrize("name", ["", "../a.png", "a/../../b", "/etc/passwd", "C:\\a.png", "a\0b"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"line 7: file .* is not a path below"):
        file_below(tmp_path, name, "t.csv, line 7")


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text('a,"\n\r1.;\0é', max_size=60).map(str.encode)))
@example(b'"\x00\n"a')  # a header of several lines, near a column that is asked for
def test_any_bytes_are_read_or_refused_in_one_sentence(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "t.csv"
    path.write_bytes(content)
    try:
        table = read_table(path, ["a"])
        numbers(table, "a", path)
    except ValueError as error:
        assert "t.csv" in str(error) and "\n" not in str(error)
