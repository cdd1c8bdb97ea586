"""Agents: planning, policy, random."""

from loopwm.agents.interface import AbstractAgent as AbstractAgent
from loopwm.agents.interface import AgentState as AgentState
from loopwm.agents.interface import DecisionStats as DecisionStats
from loopwm.agents.interface import SpaceCodec as SpaceCodec
from loopwm.agents.planning import PlanningAgent as PlanningAgent
from loopwm.agents.policy import PolicyAgent as PolicyAgent
from loopwm.agents.random import RandomAgent as RandomAgent
