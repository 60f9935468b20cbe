"""Graphs of structures."""

from uip.graph.batch import Graph as Graph
from uip.graph.batch import Outputs as Outputs
