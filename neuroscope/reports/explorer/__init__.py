"""The explorer: one offline page on which masks, layers, neurons and their cards are looked through.

`card` is the plain data of one neuron that anybody can fill in, `content` gathers what a page shows, `packing` makes
text of its numbers, `pages` puts both and the front end (`front/`: plain JavaScript modules and a style sheet, shipped
as they are) into one file, and `exploring` is what users call.
"""
