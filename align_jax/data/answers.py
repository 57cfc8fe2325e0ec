"""Answers that can be checked."""

import decimal
import re

NUMBER = re.compile(r'-?(\d+(\.\d+)?|\.\d+)', re.ASCII)


def final_answer(text):
  """The number after the last '####', as GSM8K marks it (Cobbe et al. 2021).

  Returns:
    str, without ',', '$' and a closing '.'. None if there is no '####', or if
    anything but one number follows it.
  """
  _, mark, rest = text.rpartition('####')
  number = rest.replace(',', '').replace('$', '').strip().removesuffix('.')
  return number if mark and NUMBER.fullmatch(number) else None


def correct(completion, answer):
  """Whether the completion's final answer is that number. '5.0' is '5'.

  Args:
    completion: str.
    answer: str, a number as `final_answer` returns it.
  """
  found = final_answer(completion)
  # Decimals of any length are read and compared exactly.
  return found is not None and decimal.Decimal(found) == decimal.Decimal(answer)
