"""What each figure of the report means, and what it does not mean."""

SCENE = """<b>Turn it with the mouse or a finger; the buttons choose what is shown.</b> Atoms carry their numbers and,
where a number belongs to each atom, that number. On surfaces, Ω<sub>A</sub>(r) is the energy that the model gives to
a probe atom of element A at the point r: the molecule acts on the probe, the probe does not act on the molecule
(DTNN, Nature Communications 8, 13890). It contains neither the reference energy of the element nor any reaction of the
molecule, so it is not a binding energy, and differences along a surface say more than its level. The surface is where
Σ‖r − r<sub>i</sub>‖⁻² = {level} Å⁻². Colours are the same in all molecules of this report: from the 2nd to the 98th
percentile of Ω on all surfaces, lighter is higher; {ranges}."""

CONTRIBUTIONS = """<b>Energies of the atoms</b> from the output network, without the reference energies of the
elements: their sum, with the references, is the prediction; what is missing in it is stated below the table. Only the
sum has been trained. How it is shared out between atoms is the model's choice and differs between models and seeds, so
look at differences that they agree on{spread}."""

GROUPS = """<b>Sums over groups</b> found from the geometry, each atom in one group, rings first. The same caution
holds as for single atoms, less so for larger groups."""

PLANES = """<b>Ω in planes</b> through the molecule and above it, with lines of equal Ω. Colours as on the surfaces.
Close to nuclei, and wherever training had no atoms at such distances, Ω is an extrapolation and means nothing."""

WALKS = """<b>Relevance of walks</b> (GNN-LRP, arXiv:2006.03589) through the interaction blocks, from an atom to the
atom whose energy it changes; summed here by where the walk begins, and by how many different atoms it visits. Filters
and distances are taken as constant. Without biases the sum is the network's energy; with them {bias} kcal/mol of
{energy} kcal/mol belong to no walk. Relevances of opposite sign may cancel."""

SENSITIVITY = """The column <i>sensitivity</i> is the length of the energy's gradient with respect to the embedding of
the atom: how much the energy would change if the element were a little different, not how much it contributes."""

CHARGES = """The <i>charges</i>, in e, are what the model puts on the atoms to give the dipole moment; they add up to
the charge of the molecule. Many distributions give the same dipole, so they are no observable; and if the model has
learnt magnitudes of dipoles only, their common sign is arbitrary."""

ATTRIBUTION = """<b>PatternAttribution</b> (arXiv:1705.05598) of the energies of the atoms, relative to the mean atom
of the same element, to the features of the last layer; patterns were estimated for each element. The rows add up to
E<sub>i</sub> − ⟨E⟩; what is missing is at most {missing} kcal/mol. Features have no names: the picture tells whether
few or many of them decide, and which atoms are alike."""

ENVIRONMENTS = """<b>Energies of atoms by environment</b> over {count:,} molecules: the network's part, mean and
standard deviation; behind each name how many atoms there were. Differences between environments of an element are the
model's chemistry; how far they can be trusted, seeds must tell."""

QUALITY = """<b>Signal quality</b> ρ of the estimators on molecules that were not used for the estimate: 1 if nothing
about the output is left in what is called distractor. Identity leaves nothing over and scores 1 trivially; it is no
information."""

EMBEDDING = """<b>Embeddings of the elements</b> that occurred in training, by their first two principal components.
Neighbouring elements are alike to the model. The sign of PC1 is chosen so that it grows with Z. With {count} elements
this is an illustration, no proof{correlation}."""

FILTERS = """<b>Filters</b> as in Fig. 3 of arXiv:1706.08566: W(√(x² + y²)) in a square of {extent:g} × {extent:g} Å
around an atom, blue negative, red positive; the curves show the same numbers without colour. {final}
Distances that never occurred in training (below about 0.9 Å) show how the network continues, not what it learned."""

ENDS_WITH_SSP = """These filter networks end with a shifted softplus: before the cutoff function no filter is below
−ln 2 = −0.693."""
ENDS_LINEAR = "These filter networks end with a linear layer, so filters have no lower bound."
