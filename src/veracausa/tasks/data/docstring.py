"""Names of functions and of their arguments, words that describe them, and docstrings cut off before the third name."""

from veracausa.tasks.data import words

#: {a} … {d}: arguments; {x} …: words that say nothing about them.
TEMPLATES = (
    'def {f}(self, {a}, {b}, {c}, {d}):\n    """{x} {y} {z}\n\n    :param {e}: {p} {q}\n    :param {g}: {r} {s}\n'
    "    :param",
    'def {f}(self, {a}, {b}, {c}, {d}):\n    """{x} {y}\n\n    @param {e}: {p} {q} {z}\n    @param {g}: {r} {s}\n'
    "    @param",
    'def {f}(self, {a}, {b}, {c}, {d}):\n    """\n    {x} {y} {z}\n\n    :arg {e}: {p}\n    :arg {g}: {q} {r} {s}\n'
    "    :arg",
)
FUNCTIONS = words("run load send build check open read write start update convert find test port create call")
ARGUMENTS = words(
    """
    size file files text name path value key data time user color image list index count mode type state code date
    title token limit width height depth order port host line table group model node level target source result
    message number label field event image option format length start end step page query filter version language
    """
)
WORDS = words(
    """
    oil old column crowd piece song house tree road light morning unit dark river bridge garden winter stone music
    letter friend paper corner market island ocean summer forest circle shape weight sound edge plan
    """
)
