"""Graphs of structures: batching, neighbour lists, conversion from ASE."""

from uip.graph.batch import Graph as Graph
from uip.graph.batch import Outputs as Outputs
