"""What tests hear of scripts that run where only transformers is known."""

from __future__ import annotations

from alone import alone


def test_a_script_knows_transformers_and_nothing_of_ours_and_none_knows_the_one_before(tmp_path):
    script = "import sys\nassert 'transformers' in sys.modules\nprint(sys.argv[1:])\n"
    script += "print(sorted({'analysis', 'slicing', 'app'} & set(sys.modules)))\nimport slicing\n"
    for _ in range(2):
        answer = alone(script, "a", 1, cwd=tmp_path)
        assert (answer.returncode, answer.stdout) == (0, "['a', '1']\n[]\n"), answer.stderr


def test_what_goes_wrong_is_told(tmp_path):
    assert alone("import sys; sys.exit(3)", cwd=tmp_path).returncode == 3
    answer = alone("assert input() == 'nothing to read'", cwd=tmp_path)
    assert answer.returncode == 1
    assert "EOFError" in answer.stderr
