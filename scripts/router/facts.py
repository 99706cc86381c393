"""Facts that `make_tasks.py` asks for, in plain tables, what most people know first.

Lines of a table are "key: value" or "key: value, value" (any of them right), separated by semicolons.
"""

from __future__ import annotations


def table(text: str) -> list[tuple[str, list[str]]]:
    """The lines of a table."""
    lines = [line.strip() for line in text.replace("\n", " ").split(";") if line.strip()]
    pairs = [line.split(":", 1) for line in lines]
    return [(key.strip(), [value.strip() for value in values.split(",")]) for key, values in pairs]


def words(text: str) -> list[str]:
    return text.split()


CAPITALS = table("""
France: Paris; Germany: Berlin; Italy: Rome; Spain: Madrid; Japan: Tokyo; China: Beijing; Russia: Moscow; Egypt: Cairo;
Greece: Athens; Portugal: Lisbon; Canada: Ottawa; Australia: Canberra; India: New Delhi; Ireland: Dublin; Sweden: Stockholm;
Norway: Oslo; Denmark: Copenhagen; Finland: Helsinki; Poland: Warsaw; Austria: Vienna; Belgium: Brussels; Turkey: Ankara;
Argentina: Buenos Aires; Brazil: Brasilia; Cuba: Havana; Thailand: Bangkok; South Korea: Seoul; Iran: Tehran; Iraq: Baghdad;
Kenya: Nairobi; Hungary: Budapest; Ukraine: Kyiv, Kiev; Peru: Lima; Chile: Santiago; Colombia: Bogota; Vietnam: Hanoi;
Indonesia: Jakarta; Philippines: Manila; Malaysia: Kuala Lumpur; Pakistan: Islamabad; Afghanistan: Kabul; Nepal: Kathmandu;
Bangladesh: Dhaka; New Zealand: Wellington; Switzerland: Bern, Berne; Netherlands: Amsterdam; Romania: Bucharest;
Bulgaria: Sofia; Serbia: Belgrade; Croatia: Zagreb; Iceland: Reykjavik; Saudi Arabia: Riyadh; Syria: Damascus;
Lebanon: Beirut; Jordan: Amman; Morocco: Rabat; Algeria: Algiers; Libya: Tripoli; Tunisia: Tunis; Ethiopia: Addis Ababa;
Nigeria: Abuja; Ghana: Accra; Uganda: Kampala; Zimbabwe: Harare; Venezuela: Caracas; Ecuador: Quito; Uruguay: Montevideo;
Paraguay: Asuncion; Jamaica: Kingston; Mongolia: Ulaanbaatar, Ulan Bator; North Korea: Pyongyang; Cambodia: Phnom Penh;
Laos: Vientiane; Qatar: Doha; Oman: Muscat; Slovakia: Bratislava; Slovenia: Ljubljana; Latvia: Riga; Lithuania: Vilnius;
Estonia: Tallinn; Belarus: Minsk; Albania: Tirana; Georgia: Tbilisi; Armenia: Yerevan; Azerbaijan: Baku;
Kazakhstan: Astana; Uzbekistan: Tashkent; Senegal: Dakar; Somalia: Mogadishu; Sudan: Khartoum; Rwanda: Kigali;
Zambia: Lusaka; Angola: Luanda; Mozambique: Maputo; Madagascar: Antananarivo; Cyprus: Nicosia; Malta: Valletta;
Honduras: Tegucigalpa; Nicaragua: Managua; Costa Rica: San Jose; Dominican Republic: Santo Domingo; Fiji: Suva;
Bahamas: Nassau; Bahrain: Manama; Moldova: Chisinau; Kyrgyzstan: Bishkek; Tajikistan: Dushanbe; Turkmenistan: Ashgabat;
Bhutan: Thimphu; Mali: Bamako; Niger: Niamey; Chad: N'Djamena; Cameroon: Yaounde; Gabon: Libreville; Namibia: Windhoek;
Botswana: Gaborone; Malawi: Lilongwe; Burkina Faso: Ouagadougou; Liberia: Monrovia; Sierra Leone: Freetown; Togo: Lome;
Guinea: Conakry; Mauritania: Nouakchott; Eritrea: Asmara; Suriname: Paramaribo; Guyana: Georgetown; Barbados: Bridgetown;
Papua New Guinea: Port Moresby; Samoa: Apia; Tonga: Nuku'alofa; Vanuatu: Port Vila; Maldives: Male; Lesotho: Maseru;
Burundi: Gitega; Gambia: Banjul; Montenegro: Podgorica; North Macedonia: Skopje; Liechtenstein: Vaduz
""")

CONTINENTS = table("""
Europe: France, Germany, Italy, Spain, Portugal, Poland, Sweden, Norway, Finland, Denmark, Ireland, Greece, Austria, Hungary,
Romania, Bulgaria, Belgium, Croatia, Serbia, Ukraine, Iceland, Switzerland, Albania, Latvia, Lithuania, Estonia, Malta, Moldova;
Africa: Egypt, Kenya, Nigeria, Ghana, Ethiopia, Morocco, Algeria, Libya, Tunisia, Uganda, Tanzania, Senegal, Mali, Niger, Chad,
Sudan, Somalia, Angola, Zambia, Zimbabwe, Namibia, Botswana, Madagascar, Rwanda, Cameroon, Gabon, Togo, Malawi, Mozambique;
Asia: China, Japan, India, Vietnam, Thailand, Nepal, Mongolia, Pakistan, Bangladesh, Iran, Iraq, Syria, Jordan, Lebanon,
Malaysia, Cambodia, Laos, Bhutan, Oman, Qatar, Yemen, Kuwait, Afghanistan, Uzbekistan, Sri Lanka, Myanmar, South Korea;
South America: Brazil, Argentina, Chile, Peru, Colombia, Ecuador, Bolivia, Uruguay, Paraguay, Venezuela, Guyana, Suriname;
North America: Canada, Mexico, Cuba, Jamaica, Honduras, Guatemala, Nicaragua, Haiti, Belize, El Salvador, Panama, Costa Rica
""")

CURRENCIES = table("""
Japan: yen; the United Kingdom: pound; India: rupee; China: yuan, renminbi; Russia: ruble, rouble; Mexico: peso;
Switzerland: franc; the United States: dollar; Germany: euro; France: euro; South Korea: won; Brazil: real; Turkey: lira;
Poland: zloty; Sweden: krona; Norway: krone; Denmark: krone; Israel: shekel; Thailand: baht; Vietnam: dong; Egypt: pound;
Australia: dollar; Canada: dollar; Pakistan: rupee; Indonesia: rupiah; Malaysia: ringgit; South Africa: rand; Iran: rial;
Hungary: forint; the Czech Republic: koruna; Ukraine: hryvnia; Romania: leu; Bulgaria: lev, euro; Kenya: shilling;
Nigeria: naira; Ghana: cedi; Argentina: peso; Chile: peso; Peru: sol; Saudi Arabia: riyal; Morocco: dirham; Iceland: krona;
Kuwait: dinar; Bangladesh: taka; Mongolia: tugrik, togrog; Ethiopia: birr; Cambodia: riel; Laos: kip; Georgia: lari;
Kazakhstan: tenge; Guatemala: quetzal; Honduras: lempira; Paraguay: guarani; Zambia: kwacha; Angola: kwanza; Albania: lek
""")

LANGUAGES = table("""
Brazil: Portuguese; Mexico: Spanish; Argentina: Spanish; Egypt: Arabic; Austria: German; Japan: Japanese; Iran: Persian, Farsi;
Israel: Hebrew; Netherlands: Dutch; Greece: Greek; Sweden: Swedish; Cuba: Spanish; Saudi Arabia: Arabic; Jamaica: English;
Poland: Polish; Hungary: Hungarian; Norway: Norwegian; Denmark: Danish; Thailand: Thai; Vietnam: Vietnamese; Chile: Spanish;
Senegal: French; Angola: Portuguese; Mozambique: Portuguese; Turkey: Turkish; Romania: Romanian; Bulgaria: Bulgarian;
Ethiopia: Amharic; Bangladesh: Bengali, Bangla; Pakistan: Urdu; Nepal: Nepali; Cambodia: Khmer; Laos: Lao; Mongolia: Mongolian;
Mali: French, Bambara; Suriname: Dutch; Liechtenstein: German; Moldova: Romanian; Bhutan: Dzongkha; Ghana: English;
Iceland: Icelandic; Finland: Finnish; Colombia: Spanish; Morocco: Arabic; Albania: Albanian; Armenia: Armenian
""")

ELEMENTS = table("""
hydrogen: H, 1; oxygen: O, 8; carbon: C, 6; gold: Au, 79; iron: Fe, 26; silver: Ag, 47; helium: He, 2; nitrogen: N, 7;
sodium: Na, 11; copper: Cu, 29; lead: Pb, 82; calcium: Ca, 20; potassium: K, 19; zinc: Zn, 30; tin: Sn, 50; mercury: Hg, 80;
chlorine: Cl, 17; sulfur: S, 16; aluminium: Al, 13; neon: Ne, 10; magnesium: Mg, 12; silicon: Si, 14; phosphorus: P, 15;
uranium: U, 92; nickel: Ni, 28; lithium: Li, 3; fluorine: F, 9; argon: Ar, 18; titanium: Ti, 22; platinum: Pt, 78;
cobalt: Co, 27; chromium: Cr, 24; bromine: Br, 35; iodine: I, 53; boron: B, 5; beryllium: Be, 4; manganese: Mn, 25;
krypton: Kr, 36; tungsten: W, 74; barium: Ba, 56; plutonium: Pu, 94; radium: Ra, 88; cadmium: Cd, 48; antimony: Sb, 51;
arsenic: As, 33; selenium: Se, 34; xenon: Xe, 54; caesium: Cs, 55; bismuth: Bi, 83; radon: Rn, 86; vanadium: V, 23;
gallium: Ga, 31; germanium: Ge, 32; rubidium: Rb, 37; strontium: Sr, 38; yttrium: Y, 39; zirconium: Zr, 40; niobium: Nb, 41;
molybdenum: Mo, 42; palladium: Pd, 46; indium: In, 49; tellurium: Te, 52; lanthanum: La, 57; cerium: Ce, 58; hafnium: Hf, 72;
tantalum: Ta, 73; rhenium: Re, 75; osmium: Os, 76; iridium: Ir, 77; thallium: Tl, 81; polonium: Po, 84; thorium: Th, 90;
scandium: Sc, 21; ruthenium: Ru, 44; rhodium: Rh, 45; neodymium: Nd, 60; europium: Eu, 63; gadolinium: Gd, 64; erbium: Er, 68
""")

WORKS = table("""
Romeo and Juliet: William Shakespeare; Hamlet: William Shakespeare; Harry Potter: J. K. Rowling, J.K. Rowling;
Pride and Prejudice: Jane Austen; 1984: George Orwell; Animal Farm: George Orwell; Oliver Twist: Charles Dickens;
The Lord of the Rings: J. R. R. Tolkien, J.R.R. Tolkien; The Hobbit: J. R. R. Tolkien, J.R.R. Tolkien;
War and Peace: Leo Tolstoy; Anna Karenina: Leo Tolstoy; Crime and Punishment: Fyodor Dostoevsky, Fyodor Dostoyevsky;
Don Quixote: Miguel de Cervantes; The Odyssey: Homer; The Iliad: Homer; Moby-Dick: Herman Melville; Dracula: Bram Stoker;
Frankenstein: Mary Shelley; The Great Gatsby: F. Scott Fitzgerald; The Old Man and the Sea: Ernest Hemingway;
Les Misérables: Victor Hugo; The Divine Comedy: Dante Alighieri, Dante; Faust: Johann Wolfgang von Goethe, Goethe;
Macbeth: William Shakespeare; Othello: William Shakespeare; Emma: Jane Austen; A Tale of Two Cities: Charles Dickens;
Great Expectations: Charles Dickens; David Copperfield: Charles Dickens; To Kill a Mockingbird: Harper Lee;
The Catcher in the Rye: J. D. Salinger, J.D. Salinger; Brave New World: Aldous Huxley; Wuthering Heights: Emily Brontë;
Jane Eyre: Charlotte Brontë; The Picture of Dorian Gray: Oscar Wilde; Gulliver's Travels: Jonathan Swift;
Robinson Crusoe: Daniel Defoe; Treasure Island: Robert Louis Stevenson; Alice in Wonderland: Lewis Carroll;
The Metamorphosis: Franz Kafka; The Trial: Franz Kafka; Ulysses: James Joyce; The Stranger: Albert Camus;
The Plague: Albert Camus; Madame Bovary: Gustave Flaubert; The Three Musketeers: Alexandre Dumas;
The Count of Monte Cristo: Alexandre Dumas; The Grapes of Wrath: John Steinbeck; Of Mice and Men: John Steinbeck;
Fahrenheit 451: Ray Bradbury; Lolita: Vladimir Nabokov; Things Fall Apart: Chinua Achebe; The Jungle Book: Rudyard Kipling;
Peter Pan: J. M. Barrie, J.M. Barrie; The Time Machine: H. G. Wells, H.G. Wells; Lord of the Flies: William Golding;
A Farewell to Arms: Ernest Hemingway; Mrs Dalloway: Virginia Woolf; The Canterbury Tales: Geoffrey Chaucer;
Paradise Lost: John Milton; The Aeneid: Virgil; Candide: Voltaire; The Little Prince: Antoine de Saint-Exupéry;
Winnie-the-Pooh: A. A. Milne, A.A. Milne; Beloved: Toni Morrison; The Handmaid's Tale: Margaret Atwood;
Slaughterhouse-Five: Kurt Vonnegut; Dune: Frank Herbert; Siddhartha: Hermann Hesse; The Magic Mountain: Thomas Mann;
Eugene Onegin: Alexander Pushkin; Dead Souls: Nikolai Gogol; The Cherry Orchard: Anton Chekhov; A Doll's House: Henrik Ibsen;
Waiting for Godot: Samuel Beckett; Pygmalion: George Bernard Shaw; Fathers and Sons: Ivan Turgenev;
Middlemarch: George Eliot; Vanity Fair: William Makepeace Thackeray; Heart of Darkness: Joseph Conrad;
Tess of the d'Urbervilles: Thomas Hardy; Walden: Henry David Thoreau; Leaves of Grass: Walt Whitman;
The Scarlet Letter: Nathaniel Hawthorne; The Raven: Edgar Allan Poe; Nausea: Jean-Paul Sartre; The Tin Drum: Günter Grass
""")

ART = table("""
painted|the Mona Lisa: Leonardo da Vinci; painted|The Starry Night: Vincent van Gogh; painted|Guernica: Pablo Picasso;
painted|The Scream: Edvard Munch; painted|The Last Supper: Leonardo da Vinci; painted|The Kiss: Gustav Klimt;
painted|The Night Watch: Rembrandt; painted|Girl with a Pearl Earring: Johannes Vermeer;
painted|The Persistence of Memory: Salvador Dalí; painted|The Birth of Venus: Sandro Botticelli;
painted|Las Meninas: Diego Velázquez; painted|American Gothic: Grant Wood; painted|The School of Athens: Raphael;
painted|Nighthawks: Edward Hopper; painted|The Garden of Earthly Delights: Hieronymus Bosch;
composed|The Magic Flute: Wolfgang Amadeus Mozart; composed|The Four Seasons: Antonio Vivaldi;
composed|Swan Lake: Pyotr Ilyich Tchaikovsky; composed|the Moonlight Sonata: Ludwig van Beethoven;
composed|the Messiah: George Frideric Handel; composed|Carmen: Georges Bizet; composed|Boléro: Maurice Ravel;
composed|The Rite of Spring: Igor Stravinsky; composed|Aida: Giuseppe Verdi; composed|Madama Butterfly: Giacomo Puccini;
composed|The Barber of Seville: Gioachino Rossini; composed|The Brandenburg Concertos: Johann Sebastian Bach;
composed|The Creation: Joseph Haydn; composed|Peer Gynt: Edvard Grieg; composed|The Planets: Gustav Holst;
invented|the telephone: Alexander Graham Bell; invented|dynamite: Alfred Nobel; invented|the World Wide Web: Tim Berners-Lee;
invented|the phonograph: Thomas Edison; discovered|penicillin: Alexander Fleming; discovered|radium: Marie Curie;
discovered|the law of gravity: Isaac Newton; developed|the theory of relativity: Albert Einstein;
developed|the theory of evolution: Charles Darwin; developed|the periodic table: Dmitri Mendeleev;
discovered|X-rays: Wilhelm Röntgen, Wilhelm Roentgen; discovered|the electron: J. J. Thomson, J.J. Thomson;
discovered|the neutron: James Chadwick; invented|the diesel engine: Rudolf Diesel; discovered|Uranus: William Herschel
""")

PLURALS = table("""
cat: cats; box: boxes; baby: babies; city: cities; dog: dogs; bus: buses; watch: watches; party: parties; toy: toys;
child: children; mouse: mice; foot: feet; tooth: teeth; man: men; woman: women; goose: geese; leaf: leaves; knife: knives;
wolf: wolves; half: halves; life: lives; wife: wives; shelf: shelves; loaf: loaves; thief: thieves; calf: calves;
potato: potatoes; tomato: tomatoes; hero: heroes; echo: echoes; piano: pianos; photo: photos; radio: radios; zoo: zoos;
sheep: sheep; fish: fish, fishes; deer: deer; ox: oxen; person: people, persons; cactus: cacti, cactuses;
fungus: fungi, funguses; nucleus: nuclei; radius: radii; stimulus: stimuli; alumnus: alumni; syllabus: syllabi, syllabuses;
crisis: crises; analysis: analyses; thesis: theses; oasis: oases; basis: bases; hypothesis: hypotheses; axis: axes;
phenomenon: phenomena; criterion: criteria; bacterium: bacteria; datum: data; medium: media, mediums; curriculum: curricula;
index: indices, indexes; appendix: appendices, appendixes; vertex: vertices; matrix: matrices; species: species;
series: series; aircraft: aircraft; salmon: salmon; louse: lice; dwarf: dwarves, dwarfs; hoof: hooves, hoofs; roof: roofs;
chef: chefs; belief: beliefs; chief: chiefs; cliff: cliffs; scarf: scarves, scarfs; elf: elves; self: selves;
mother-in-law: mothers-in-law; passer-by: passers-by; runner-up: runners-up; formula: formulae, formulas; larva: larvae;
antenna: antennae, antennas; vertebra: vertebrae; alga: algae; church: churches; dish: dishes; brush: brushes; glass: glasses;
kiss: kisses; fox: foxes; tax: taxes; quiz: quizzes; story: stories; country: countries; lady: ladies; monkey: monkeys;
key: keys; day: days; boy: boys; fly: flies; penny: pennies, pence; family: families; library: libraries; army: armies;
veto: vetoes; volcano: volcanoes, volcanos; mosquito: mosquitoes, mosquitos; video: videos; kangaroo: kangaroos;
handkerchief: handkerchiefs, handkerchieves; ellipsis: ellipses; diagnosis: diagnoses; parenthesis: parentheses;
emphasis: emphases; neurosis: neuroses; stratum: strata; bureau: bureaus, bureaux; plateau: plateaus, plateaux;
château: châteaux, châteaus; octopus: octopuses, octopi, octopodes; platypus: platypuses, platypi; virus: viruses;
genus: genera; corpus: corpora, corpuses; opus: opera, opuses; die: dice; brother: brothers, brethren; swine: swine;
moose: moose; trout: trout; bison: bison; shrimp: shrimp, shrimps; offspring: offspring; headquarters: headquarters;
fireman: firemen; policewoman: policewomen; grandchild: grandchildren; dormouse: dormice; gentleman: gentlemen;
bookshelf: bookshelves; midwife: midwives; jackknife: jackknives; housewife: housewives; eyetooth: eyeteeth;
attorney general: attorneys general; court-martial: courts-martial, court-martials; man-of-war: men-of-war
""")

PAST = table("""
walk: walked; play: played; go: went; eat: ate; see: saw; run: ran; take: took; make: made; come: came; have: had;
give: gave; write: wrote; speak: spoke; sing: sang; swim: swam; drink: drank; begin: began; buy: bought; bring: brought;
think: thought; teach: taught; catch: caught; fight: fought; seek: sought; sleep: slept; keep: kept; feel: felt; leave: left;
meet: met; lose: lost; find: found; hold: held; stand: stood; understand: understood; tell: told; sell: sold; say: said;
pay: paid; hear: heard; read: read; cut: cut; put: put; hit: hit; let: let; set: set; shut: shut; cost: cost; hurt: hurt;
fly: flew; grow: grew; know: knew; throw: threw; draw: drew; blow: blew; break: broke; choose: chose; freeze: froze;
steal: stole; wake: woke, waked; drive: drove; ride: rode; rise: rose; fall: fell; forget: forgot; get: got; forgive: forgave;
shake: shook; wear: wore; tear: tore; bear: bore; swear: swore; bite: bit; hide: hid; dig: dug; stick: stuck; win: won;
spin: spun; hang: hung, hanged; strike: struck; swing: swung; sting: stung; cling: clung; fling: flung; shrink: shrank, shrunk;
sink: sank, sunk; spring: sprang, sprung; stink: stank, stunk; ring: rang; lie (tell an untruth): lied; lay: laid; bend: bent;
lend: lent; send: sent; spend: spent; build: built; burst: burst; bet: bet; spread: spread; slide: slid; shoot: shot; feed: fed;
lead: led; breed: bred; bleed: bled; speed: sped, speeded; creep: crept; weep: wept; sweep: swept; kneel: knelt, kneeled;
deal: dealt; mean: meant; dream: dreamed, dreamt; learn: learned, learnt; burn: burned, burnt; spell: spelled, spelt;
spill: spilled, spilt; light: lit, lighted; bind: bound; grind: ground; wind: wound; weave: wove, weaved; tread: trod, treaded;
strive: strove, strived; slay: slew, slayed; forsake: forsook; forbid: forbade, forbad; withdraw: withdrew; overcome: overcame;
arise: arose; awake: awoke, awaked; beget: begot; cleave: cleaved, clove, cleft; bid: bid, bade; shed: shed; split: split;
thrust: thrust; stop: stopped; plan: planned; carry: carried; study: studied; try: tried; cry: cried; hope: hoped; like: liked;
travel: travelled, traveled; prefer: preferred; permit: permitted; admit: admitted; occur: occurred; refer: referred;
panic: panicked; mimic: mimicked; picnic: picnicked; dye: dyed; tie: tied; hurry: hurried; marry: married; enjoy: enjoyed;
stay: stayed; open: opened; visit: visited; listen: listened; beat: beat; quit: quit, quitted; foresee: foresaw; undo: undid;
mistake: mistook; overtake: overtook; undertake: undertook; outgrow: outgrew; rewrite: rewrote; misspell: misspelled, misspelt
""")

OPPOSITES = table("""
hot: cold, cool; big: small, little; up: down; happy: sad, unhappy; fast: slow; old: young, new; day: night; black: white;
open: closed, close, shut; light: dark, heavy; hard: soft, easy; rich: poor; strong: weak; tall: short; wet: dry; full: empty;
good: bad, evil; early: late; high: low; clean: dirty; love: hate; win: lose; push: pull; buy: sell; give: take, receive;
inside: outside; left: right; first: last; true: false; near: far; thick: thin; wide: narrow; loud: quiet, soft, silent;
deep: shallow; sharp: blunt, dull; smooth: rough; brave: cowardly, afraid, timid, fearful; polite: rude, impolite;
cheap: expensive, costly; begin: end, finish, stop; alive: dead; asleep: awake; arrive: depart, leave; accept: reject, refuse,
decline; increase: decrease, reduce; friend: enemy, foe; success: failure; victory: defeat, loss; war: peace; birth: death;
sweet: sour, bitter; tight: loose; straight: crooked, curved, bent; simple: complex, complicated, difficult; safe: dangerous,
unsafe; public: private; ancient: modern, new; guilty: innocent, not guilty; permanent: temporary; generous: selfish, stingy,
mean, miserly; optimist: pessimist; maximum: minimum; majority: minority; import: export; entrance: exit; front: back, rear;
north: south; east: west; above: below, under, beneath; before: after; always: never; everything: nothing; remember: forget;
build: destroy, demolish; attack: defend, defence, defense; allow: forbid, prohibit, deny; borrow: lend; float: sink;
freeze: melt, thaw; laugh: cry, weep; lead: follow; teach: learn; praise: criticise, criticize, blame; reward: punish,
punishment; succeed: fail; expand: contract, shrink; rise: fall, set; hide: show, reveal, seek; create: destroy;
combine: separate, divide, split; question: answer; cause: effect; transparent: opaque; flexible: rigid, inflexible, stiff;
abundant: scarce, rare; humble: proud, arrogant; lenient: strict, harsh; fertile: barren, infertile; vertical: horizontal;
concave: convex; explicit: implicit; active: passive; positive: negative; natural: artificial, unnatural; real: fake,
imaginary, unreal; ascend: descend; advance: retreat; absent: present; ally: enemy, adversary; amateur: professional;
artificial: natural; ceiling: floor; cruel: kind, gentle; dawn: dusk; sunrise: sunset; deny: admit, confirm, affirm;
drunk: sober; employer: employee; exterior: interior; export: import; famous: unknown, obscure; fresh: stale; gain: loss, lose;
heaven: hell; inferior: superior; junior: senior; knowledge: ignorance; lazy: hardworking, diligent, industrious, active;
literal: figurative; major: minor; masculine: feminine; mature: immature; noisy: quiet, silent; odd: even; plural: singular;
predator: prey; rural: urban; shallow: deep; tame: wild; tragedy: comedy; vague: clear, precise, definite; verbose: concise;
visible: invisible; voluntary: compulsory, involuntary, mandatory; wisdom: foolishness, folly; zenith: nadir; frugal: wasteful,
extravagant, lavish; novice: expert; mutiny: obedience, loyalty; prologue: epilogue; nocturnal: diurnal; benign: malignant;
acquit: convict, condemn; synonym: antonym; debit: credit; hinder: help, assist; conceal: reveal, show; meek: bold, assertive
""")

# English: French; Spanish; German
VOCABULARY = [
    tuple(part.split("/") for part in line.split("|"))
    for line in """
water|eau|agua|Wasser
house|maison|casa|Haus
dog|chien|perro|Hund
cat|chat|gato|Katze
red|rouge|rojo/roja|rot
green|vert/verte|verde|grün
blue|bleu/bleue|azul|blau
white|blanc/blanche|blanco/blanca|weiß/weiss
black|noir/noire|negro/negra|schwarz
book|livre|libro|Buch
friend|ami/amie|amigo/amiga|Freund/Freundin
love|amour/aimer|amor/amar|Liebe/lieben
night|nuit|noche|Nacht
day|jour|día|Tag
sun|soleil|sol|Sonne
moon|lune|luna|Mond
man|homme|hombre|Mann
woman|femme|mujer|Frau
child|enfant|niño/niña|Kind
mother|mère|madre|Mutter
father|père|padre|Vater
brother|frère|hermano|Bruder
sister|sœur/soeur|hermana|Schwester
bread|pain|pan|Brot
milk|lait|leche|Milch
cheese|fromage|queso|Käse
apple|pomme|manzana|Apfel
fish|poisson|pescado/pez|Fisch
egg|œuf/oeuf|huevo|Ei
meat|viande|carne|Fleisch
tree|arbre|árbol|Baum
flower|fleur|flor|Blume
bird|oiseau|pájaro/ave|Vogel
horse|cheval|caballo|Pferd
cow|vache|vaca|Kuh
pig|cochon/porc|cerdo|Schwein
hand|main|mano|Hand
foot|pied|pie|Fuß/Fuss
head|tête|cabeza|Kopf
eye|œil/oeil|ojo|Auge
heart|cœur/coeur|corazón|Herz
door|porte|puerta|Tür
window|fenêtre|ventana|Fenster
table|table|mesa|Tisch
chair|chaise|silla|Stuhl
bed|lit|cama|Bett
kitchen|cuisine|cocina|Küche
school|école|escuela|Schule
street|rue|calle|Straße/Strasse
city|ville|ciudad|Stadt
country|pays|país|Land
sea|mer|mar|Meer/See
mountain|montagne|montaña|Berg
river|rivière/fleuve|río|Fluss
rain|pluie|lluvia|Regen
snow|neige|nieve|Schnee
fire|feu|fuego|Feuer
winter|hiver|invierno|Winter
summer|été|verano|Sommer
spring (the season)|printemps|primavera|Frühling
autumn|automne|otoño|Herbst
Monday|lundi|lunes|Montag
Friday|vendredi|viernes|Freitag
Sunday|dimanche|domingo|Sonntag
January|janvier|enero|Januar
five|cinq|cinco|fünf
eight|huit|ocho|acht
ten|dix|diez|zehn
twenty|vingt|veinte|zwanzig
hundred|cent|cien/ciento|hundert
thank you|merci|gracias|danke
please|s'il vous plaît/s'il te plaît|por favor|bitte
good morning|bonjour|buenos días|guten Morgen
goodbye|au revoir|adiós/hasta luego|auf Wiedersehen/tschüss
yes|oui|sí|ja
money|argent|dinero|Geld
time|temps|tiempo|Zeit
work|travail/travailler|trabajo/trabajar|Arbeit/arbeiten
car|voiture|coche/carro/auto|Auto/Wagen
train|train|tren|Zug
key|clé/clef|llave|Schlüssel
letter|lettre|carta/letra|Brief/Buchstabe
king|roi|rey|König
queen|reine|reina|Königin
butterfly|papillon|mariposa|Schmetterling
strawberry|fraise|fresa|Erdbeere
spoon|cuillère|cuchara|Löffel
knife|couteau|cuchillo|Messer
fork|fourchette|tenedor|Gabel
mirror|miroir|espejo|Spiegel
umbrella|parapluie|paraguas|Regenschirm/Schirm
bridge|pont|puente|Brücke
church|église|iglesia|Kirche
forest|forêt|bosque|Wald
squirrel|écureuil|ardilla|Eichhörnchen
hedgehog|hérisson|erizo|Igel
shoulder|épaule|hombro|Schulter
thumb|pouce|pulgar|Daumen
pillow|oreiller|almohada|Kissen/Kopfkissen
blanket|couverture|manta/cobija|Decke
""".strip().splitlines()
]

CATEGORIES = table("""
fish: trout, salmon, tuna, cod, herring, carp, sardine, haddock; bird: eagle, sparrow, robin, owl, pigeon, parrot, heron, finch;
mammal: dog, horse, whale, bat, dolphin, elephant, rabbit, squirrel; insect: ant, bee, beetle, butterfly, mosquito, wasp,
cricket, moth; reptile: snake, lizard, crocodile, turtle, gecko, iguana, cobra, chameleon;
fruit: apple, banana, cherry, mango, peach, pear, plum, apricot; vegetable: carrot, onion, cabbage, spinach, broccoli, leek,
turnip, parsnip; tool: hammer, saw, screwdriver, wrench, chisel, drill, pliers, spanner; instrument: piano, violin, guitar,
flute, trumpet, cello, oboe, harp; vehicle: car, bus, truck, bicycle, tram, motorcycle, lorry, van;
furniture: chair, table, sofa, wardrobe, desk, bookcase, stool, cupboard; clothing: shirt, coat, hat, glove, scarf, sock,
jacket, skirt; metal: iron, copper, gold, zinc, nickel, silver, tin, platinum; tree: oak, pine, birch, maple, willow, elm,
beech, spruce; flower: rose, tulip, daisy, lily, orchid, violet, daffodil, carnation; drink: tea, coffee, juice, milk, lemonade,
wine, beer, cider; sport: football, tennis, hockey, basketball, rugby, badminton, volleyball, golf; colour: red, blue, green,
yellow, purple, orange, pink, brown; planet: Mars, Venus, Jupiter, Saturn, Neptune, Uranus, Mercury, Earth; job: doctor,
teacher, plumber, baker, lawyer, nurse, farmer, carpenter; shape: circle, square, triangle, rectangle, hexagon, pentagon,
oval, rhombus; organ: heart, liver, kidney, lung, stomach, brain, spleen, pancreas
""")

RHYMES = [
    line.split()
    for line in """
cat hat bat mat flat chat
light night fight bright kite bite
day play stay weigh grey they
tree bee sea key knee free
blue shoe true through few zoo
cake lake snake break steak make
rain train lane plane chain reign
bear hair care pear where stair
moon spoon tune June noon soon
boat coat note vote goat wrote
house mouse blouse grouse
sing ring king wing spring thing
ball tall call crawl small wall
book cook look hook took brook
hand sand land band stand grand
bed head red said bread thread
bell shell smell well spell tell
fish dish wish swish
dog log frog fog
sun fun run son one done
snow go toe sew though know
dream team cream seem theme scheme
door floor more four war shore
bird word heard third herd
nose rose knows toes froze hose
five dive hive alive drive
rock clock sock lock knock
pen men ten hen then
pie sky high eye buy fly
tail whale mail sale pale snail
tower flower hour power sour
money honey funny sunny bunny
ocean motion lotion potion notion
table able label cable fable
""".strip().splitlines()
]

WORDS = words("""
apple river stone garden window planet summer bottle candle forest market pencil rabbit silver ticket basket bridge castle
dinner engine family guitar hammer island jacket kitchen lemon mirror needle orange pepper quiver ribbon school table umbrella
valley winter yellow zebra anchor button carpet dragon elephant feather glacier harvest insect jungle kettle ladder mountain
notebook ocean parrot quarter rocket saddle temple uncle violin wallet airport balloon chimney diamond evening factory
gallery holiday journey kingdom library machine necklace octopus package quality railway sandwich tractor village weather
banana committee mississippi strawberry occurrence parallel accommodate bookkeeper success balance cinnamon dictionary
education furniture happiness hippopotamus imagination knowledge laboratory mathematics neighbour opportunity photograph
restaurant scientific temperature university vocabulary watermelon xylophone yesterday adventure butterfly crocodile
""")

NAMES = words("""
Anna Ben Clara David Elena Frank Greta Henry Iris Jack Karen Liam Maria Noah Olivia Peter Quinn Rosa Samuel Tina Victor Wendy
Yusuf Zoe Amir Bella Carlos Diana Erik Fatima George Hannah Ivan Julia Kevin Laura Marco Nina Oscar Paula Ravi Sofia Thomas
""")

HELD_YOUNG = table("""
dog: puppy, pup; cat: kitten; cow: calf; horse: foal, colt, filly; sheep: lamb; goat: kid; pig: piglet; hen: chick; duck:
duckling; goose: gosling; swan: cygnet; lion: cub; bear: cub; wolf: cub, pup, whelp; fox: cub, kit, pup; deer: fawn; kangaroo:
joey; frog: tadpole, polliwog, froglet; elephant: calf; whale: calf; seal: pup; owl: owlet, chick; eagle: eaglet; hare:
leveret; eel: elver; butterfly: caterpillar, larva; salmon: fry, parr, smolt, alevin; rabbit: kit, kitten, bunny; tiger: cub;
giraffe: calf; turkey: poult, chick; pigeon: squab; spider: spiderling; beaver: kit; hedgehog: hoglet; bat: pup; zebra: foal;
mosquito: larva
""")
HELD_SOUNDS = table("""
dog: bark, woof; cat: meow, miaow, purr; cow: moo, low; sheep: baa, bleat; horse: neigh, whinny; pig: oink, grunt, squeal;
duck: quack; rooster: crow, cock-a-doodle-doo; lion: roar; snake: hiss; bee: buzz, hum; owl: hoot; frog: croak, ribbit;
wolf: howl; mouse: squeak; goat: bleat, maa; donkey: bray, hee-haw; crow: caw; pigeon: coo; turkey: gobble; goose: honk;
elephant: trumpet; hen: cluck; bird: chirp, tweet, sing; bear: growl, roar; monkey: chatter, screech; cricket: chirp;
dove: coo; hyena: laugh; dolphin: click, whistle
""")
HELD_HOMES = table("""
bird: nest; bee: hive, beehive; dog: kennel, doghouse; lion: den, lair; spider: web; horse: stable; pig: sty, pigsty; rabbit:
burrow, warren, hutch; bear: den, cave; ant: anthill, ant hill, nest, colony; beaver: lodge, dam; eagle: eyrie, aerie, nest;
fox: den, burrow, earth; badger: sett, burrow; squirrel: drey, nest; hen: coop; otter: holt, den; hare: form; cow: barn, shed,
byre; owl: nest
""")
HELD_GROUPS = table("""
wolves: pack; lions: pride; fish: school, shoal; bees: swarm, colony, hive; sheep: flock; cows: herd; geese: gaggle, flock;
ants: colony, army; elephants: herd; crows: murder; birds: flock; whales: pod; puppies: litter; owls: parliament; dolphins:
pod; ravens: unkindness
""")
HELD_ADULT = table("""
female horse: mare; male horse: stallion; female sheep: ewe; male sheep: ram; female pig: sow; male pig: boar; male cow: bull;
female chicken: hen; male chicken: rooster, cock, cockerel; female deer: doe, hind; male deer: stag, buck; female fox: vixen;
male duck: drake; male goose: gander; female lion: lioness; female tiger: tigress; male bee: drone; female dog: bitch;
male cat: tom, tomcat; female elephant: cow; male elephant: bull; male swan: cob; female swan: pen; female goat: nanny, doe;
male goat: billy, buck; female donkey: jenny, jennet; male donkey: jack, jackass
""")
COLOUR_MIX = table("""
red+blue: purple, violet; red+yellow: orange; blue+yellow: green; red+white: pink; black+white: grey, gray; red+green: brown;
blue+white: light blue, sky blue, pale blue; orange+blue: brown; yellow+purple: brown; blue+green: teal, turquoise, cyan,
blue-green; red+orange: red-orange, vermilion, vermillion; red+black: dark red, maroon; blue+black: navy, dark blue, navy blue;
yellow+white: light yellow, cream, pale yellow; yellow+green: lime, chartreuse, yellow-green; purple+white: lavender, lilac,
light purple; brown+white: tan, beige, light brown; orange+white: peach, light orange; green+white: light green, mint, pale
green
""")
COLOUR_THINGS = table("""
grass: green; the sky on a clear day: blue; snow: white; coal: black; a ripe banana: yellow; blood: red; a ripe tomato: red;
milk: white; the leaves of a tree in summer: green; chocolate: brown; a carrot: orange; a lemon: yellow; an aubergine: purple;
a flamingo: pink; an emerald: green; a ruby: red; a sapphire: blue; a polar bear: white; a raven: black; an elephant: grey,
gray; the sun in a child's drawing: yellow; a fire engine: red; a school bus in America: yellow; spinach: green; a pumpkin:
orange; an amethyst: purple, violet; cinnamon: brown; egg yolk: yellow, orange; copper sulphate: blue; litmus in acid: red;
litmus in a base: blue; a topaz: yellow; rust: brown, orange, red, reddish-brown; jade: green; turmeric: yellow, orange; the
middle stripe of the Italian flag: white; the circle on the Japanese flag: red; the cross on the Swedish flag: yellow, gold; a
stop sign: red; ivory: white; a pea: green; an onyx: black; the background of the Swiss flag: red; a garnet: red
""")
ABBREVIATIONS = table("""
USA: United States of America; UK: United Kingdom; CPU: central processing unit; RAM: random access memory; FBI: Federal Bureau
of Investigation; CIA: Central Intelligence Agency; NASA: National Aeronautics and Space Administration; UN: United Nations;
EU: European Union; WHO: World Health Organization; DNA: deoxyribonucleic acid; PDF: portable document format; USB: universal
serial bus; ATM: automated teller machine; CEO: chief executive officer; GPS: global positioning system; HTML: hypertext markup
language; WWW: World Wide Web; DIY: do it yourself; ASAP: as soon as possible; FAQ: frequently asked questions; GDP: gross
domestic product; IQ: intelligence quotient; NATO: North Atlantic Treaty Organization; VIP: very important person; PIN:
personal identification number; LED: light-emitting diode; HTTP: hypertext transfer protocol; URL: uniform resource locator;
SQL: structured query language; GPU: graphics processing unit; AI: artificial intelligence; BBC: British Broadcasting
Corporation; FIFA: Fédération Internationale de Football Association; IMF: International Monetary Fund; WTO: World Trade
Organization; UNESCO: United Nations Educational; OPEC: Organization of the Petroleum Exporting Countries; RSVP: répondez s'il
vous plaît; MRI: magnetic resonance imaging; AIDS: acquired immunodeficiency syndrome, acquired immune deficiency syndrome;
HIV: human immunodeficiency virus; RNA: ribonucleic acid; LCD: liquid crystal display; ISP: internet service provider; VPN:
virtual private network; LAN: local area network; BIOS: basic input/output system, basic input output system; JPEG: Joint
Photographic Experts Group; GIF: graphics interchange format; XML: extensible markup language; CSS: cascading style sheets;
API: application programming interface; IDE: integrated development environment; OCR: optical character recognition; RADAR:
radio detection and ranging; LASER: light amplification by stimulated emission of radiation; SCUBA: self-contained underwater
breathing apparatus; SONAR: sound navigation and ranging; NGO: non-governmental organization, nongovernmental organization;
CFO: chief financial officer; HR: human resources; PR: public relations; R&D: research and development; ETA: estimated time of
arrival; FYI: for your information; BMI: body mass index; ICU: intensive care unit; PhD: doctor of philosophy; MBA: master of
business administration; SUV: sport utility vehicle; CD: compact disc; DVD: digital versatile disc, digital video disc; UFO:
unidentified flying object; NBA: National Basketball Association; ISS: International Space Station; SSD: solid state drive,
solid-state drive; IP: Internet Protocol, intellectual property; DNS: domain name system; FTP: file transfer protocol; SMS:
short message service; IoT: internet of things; JSON: JavaScript object notation; YAML: YAML ain't markup language; WiFi:
wireless fidelity; GMT: Greenwich Mean Time; UTC: coordinated universal time; BC: before Christ; AD: anno Domini; AM: ante
meridiem; PM: post meridiem, prime minister; kg: kilogram; km: kilometre, kilometer; ml: millilitre, milliliter; Hz: hertz;
kWh: kilowatt-hour, kilowatt hour; mph: miles per hour; rpm: revolutions per minute; e.g.: exempli gratia, for example; i.e.:
id est, that is; etc.: et cetera; PS: postscript, post scriptum; NB: nota bene
""")
NEIGHBOURS = table("""
Portugal: Spain; Canada: United States; Ireland: United Kingdom; Denmark: Germany; Lesotho: South Africa; San Marino: Italy;
Vatican City: Italy; Monaco: France; South Korea: North Korea; Qatar: Saudi Arabia; Gambia: Senegal; Haiti: Dominican Republic;
Brunei: Malaysia
""")
RIVERS = table("""
Nile: Africa; Amazon: South America; Danube: Europe; Ganges: Asia; Mississippi: North America; Rhine: Europe; Yangtze: Asia;
Congo: Africa; Thames: Europe; Volga: Europe; Mekong: Asia; Niger: Africa; Zambezi: Africa; Orinoco: South America; Missouri:
North America; Seine: Europe; Indus: Asia; Paraná: South America; Colorado: North America; Loire: Europe; Euphrates: Asia;
Limpopo: Africa; Yukon: North America; Elbe: Europe
""")
CITIES = table("""
Barcelona: Spain; Milan: Italy; Munich: Germany; Sydney: Australia; Toronto: Canada; Mumbai: India; Shanghai: China; Osaka:
Japan; Istanbul: Turkey; Lyon: France; Rio de Janeiro: Brazil; Manchester: England, United Kingdom, UK; Chicago: United States,
USA, US, America; Casablanca: Morocco; Lagos: Nigeria; Cape Town: South Africa; Alexandria: Egypt; Karachi: Pakistan; Ho Chi
Minh City: Vietnam; Krakow: Poland; Porto: Portugal; Gothenburg: Sweden; Bergen: Norway; Rotterdam: Netherlands; Antwerp:
Belgium; Geneva: Switzerland; Salzburg: Austria; Vancouver: Canada; Melbourne: Australia; Auckland: New Zealand; Marrakesh:
Morocco; Mombasa: Kenya; Kumasi: Ghana; Cusco: Peru; Medellín: Colombia; Guayaquil: Ecuador; Valparaíso: Chile; Córdoba:
Argentina, Spain; Tijuana: Mexico; Busan: South Korea; Chiang Mai: Thailand; Mandalay: Myanmar; Kandy: Sri Lanka; Chittagong:
Bangladesh; Isfahan: Iran; Basra: Iraq; Aleppo: Syria; Jeddah: Saudi Arabia; Haifa: Israel; Izmir: Turkey; Thessaloniki:
Greece; Split: Croatia; Brno: Czech Republic, Czechia; Košice: Slovakia; Debrecen: Hungary; Cluj-Napoca: Romania; Plovdiv:
Bulgaria; Odesa: Ukraine; Gdansk: Poland; Kaunas: Lithuania; Tartu: Estonia; Tampere: Finland; Aarhus: Denmark; Cork: Ireland;
Naples: Italy; Seville: Spain; Marseille: France; Hamburg: Germany; Kyoto: Japan; Guangzhou: China; Kolkata: India; Lahore:
Pakistan; Surabaya: Indonesia; Cebu: Philippines; Penang: Malaysia; Da Nang: Vietnam; Durban: South Africa; Kano: Nigeria;
Benghazi: Libya; Oran: Algeria; Sfax: Tunisia; Mwanza: Tanzania; Bulawayo: Zimbabwe; Ndola: Zambia
""")
SHAPES = table("""
triangle: 3; square: 4; rectangle: 4; pentagon: 5; hexagon: 6; heptagon: 7; octagon: 8; nonagon: 9; decagon: 10; hendecagon: 11;
dodecagon: 12; rhombus: 4; trapezoid: 4; parallelogram: 4; kite: 4; quadrilateral: 4; icosagon: 20; pentadecagon: 15
""")
SOLIDS = table("""
cube: 6/12/8; cuboid: 6/12/8; tetrahedron: 4/6/4; octahedron: 8/12/6; dodecahedron: 12/30/20; icosahedron: 20/30/12;
square pyramid: 5/8/5; triangular prism: 5/9/6; hexagonal prism: 8/18/12; pentagonal prism: 7/15/10; pentagonal pyramid: 6/10/6
""")
