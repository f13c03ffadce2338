"""A recurrent net for text."""

from torch import Tensor, nn

from fedpoison.contract.registry import model
from fedpoison.types import Count, Few


class Recurrent(nn.Module):
    """An embedding, LSTM layers, and a linear layer on what the last step gives."""

    def __init__(self, vocabulary: int, n_classes: int, embedding: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.lstm = nn.LSTM(embedding, hidden, layers, batch_first=True)
        self.out = nn.Linear(hidden, n_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [B, n_classes] of token ids [B, length]."""
        steps, _ = self.lstm(self.embedding(tokens))
        logits: Tensor = self.out(steps[:, -1])
        return logits


@model()
def lstm(
    vocabulary: int | None, n_classes: int, *, embedding: Count = 8, hidden: Count = 256, layers: Few = 2
) -> nn.Module:
    """An LSTM over tokens: the next character, or a text's class.

    The defaults are those of McMahan et al. 2017 for Shakespeare: characters embedded in 8 dimensions, two layers of
    256 units.
    """
    if vocabulary is None:
        raise ValueError("lstm takes text, and these samples are not tokens")
    return Recurrent(vocabulary, n_classes, embedding, hidden, layers)
