"""LiteRT: conversion and inference of `.tflite` files, in processes of their own."""
