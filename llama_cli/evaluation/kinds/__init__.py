"""What tasks can ask of a model, and how each is graded: one file a kind.

choice.py      the likeliest of several continuations
truths.py      the probability of true answers beside that of false ones
documents.py   the code length of texts
words.py       a short answer, compared with the right ones
reasoning.py   a worked solution, of which the last answer counts; votes among several
programs.py    code, run with its tests
judged.py      a text that a scorer judges
"""
