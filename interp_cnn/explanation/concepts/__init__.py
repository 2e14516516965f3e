"""What layers stand for: patterns of filters mined, replicated, drawn, ablated."""

from interp_cnn.explanation.concepts.ablation import causal_effects
from interp_cnn.explanation.concepts.concepts import (
    Concept,
    atom_concepts,
    concept_maps,
    filter_concepts,
    pattern_concepts,
)
from interp_cnn.explanation.concepts.dictionaries import Dictionary
from interp_cnn.explanation.concepts.explanatory_graph import GraphLayer, explanatory_graph
from interp_cnn.explanation.concepts.factorisation import factorised
from interp_cnn.explanation.concepts.graph_concepts import node_concepts
from interp_cnn.explanation.concepts.itemsets import frequent_itemsets
from interp_cnn.explanation.concepts.null_model import swap_randomised
from interp_cnn.explanation.concepts.patterns import MinedPatterns, Pattern, mine_patterns
from interp_cnn.explanation.concepts.reconstruction import Reconstructor, Verification
from interp_cnn.explanation.concepts.replication import replications
from interp_cnn.explanation.concepts.sparse_dictionary import sparse_dictionary
from interp_cnn.explanation.concepts.transactions import Transactions, position_transactions

__all__ = [
    "Concept",
    "Dictionary",
    "GraphLayer",
    "MinedPatterns",
    "Pattern",
    "Reconstructor",
    "Transactions",
    "Verification",
    "atom_concepts",
    "causal_effects",
    "concept_maps",
    "explanatory_graph",
    "factorised",
    "filter_concepts",
    "frequent_itemsets",
    "mine_patterns",
    "node_concepts",
    "pattern_concepts",
    "position_transactions",
    "replications",
    "sparse_dictionary",
    "swap_randomised",
]
