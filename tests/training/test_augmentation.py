"""Augmentation on several devices."""


def test_each_device_augments_its_part_as_one_device_would(printed_by):
  """To the bit or the order of a sum, and without asking the others."""
  run = printed_by("eight_devices_augment")
  assert run["changed"] > 1
  assert max(run["apart"]) < 1e-5
  assert run["collectives"] == []
