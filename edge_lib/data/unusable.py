"""Why an item cannot be used."""


class UnusableItem(ValueError):
    """An item that has no normal form, in words of this library: unlike the message of a decoder,
    its text holds nothing of the machine.
    """
